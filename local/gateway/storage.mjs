// Storage answers as the hosted API gives them, where the gateway package's differ.

const SIGN = "/storage/v1/object/sign/";
const SIGN_UPLOAD = "/storage/v1/object/upload/sign/";

// Hosted: {"signedURL": "/object/sign/…"} for downloads and {"url": "/object/upload/sign/…"} for
// uploads, relative to /storage/v1; supabase-py reads only those names. And the package takes the
// request to sign several paths at once as one for the path "".
export function hostedStorage(forward) {
  return async (context, next) => {
    const upload = context.req.method === "PUT" && context.req.path.startsWith(SIGN_UPLOAD);
    if (upload && context.req.header("content-type")?.startsWith("multipart/form-data")) {
      return forward(await withoutForm(context.req.raw));
    }
    if (context.req.method !== "POST") return next();
    if (context.req.path.startsWith(SIGN_UPLOAD)) {
      const answer = await forward(context.req.raw);
      if (!answer.ok) return answer;
      const { signedUrl, ...rest } = await answer.json();
      return Response.json({ ...rest, url: relativeUrl(signedUrl) });
    }
    if (!context.req.path.startsWith(SIGN)) return next();
    const bucket = context.req.path.slice(SIGN.length).replace(/\/$/, "");
    if (bucket.includes("/")) {
      const answer = await forward(context.req.raw);
      return answer.ok ? Response.json(withHostedUrl(await answer.json())) : answer;
    }
    const { paths = [], expiresIn } = await context.req.json();
    return Response.json(
      await Promise.all(paths.map((path) => signOne(forward, context.req.raw, bucket, path, expiresIn))),
    );
  };
}

// The client libraries send the file to a signed URL as a form; the package would store the form.
async function withoutForm(request) {
  const form = await request.formData();
  const file = [...form.values()].find((value) => value instanceof File);
  const headers = new Headers(request.headers);
  headers.delete("content-length");
  headers.set("content-type", file?.type || "application/octet-stream");
  headers.set("cache-control", String(form.get("cacheControl") ?? headers.get("cache-control") ?? ""));
  return new Request(request.url, { method: "PUT", headers, body: file ?? new Blob() });
}

async function signOne(forward, original, bucket, path, expiresIn) {
  const headers = new Headers(original.headers);
  headers.delete("content-length");
  const url = new URL(`${SIGN}${bucket}/${path.split("/").map(encodeURIComponent).join("/")}`, original.url);
  const body = JSON.stringify({ expiresIn: Number(expiresIn) });
  const answer = await forward(new Request(url, { method: "POST", headers, body }));
  if (answer.ok) return { path, error: null, ...withHostedUrl(await answer.json()) };
  return { path, error: "Either the object does not exist or you do not have access to it", signedURL: null };
}

function withHostedUrl({ signedUrl, ...rest }) {
  return signedUrl === undefined ? rest : { ...rest, signedURL: relativeUrl(signedUrl) };
}

function relativeUrl(url) {
  return url.replace(/^\/storage\/v1/, "");
}
