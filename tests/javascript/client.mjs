// The official JavaScript client against a running app; prints what it got as one line of JSON.
//
//     node client.mjs BASE_URL MODEL EMBEDDING_MODEL     with the credential in CREDENTIAL

import OpenAI from "openai";

const [baseURL, model, embeddingModel] = process.argv.slice(2);
const options = { baseURL, apiKey: process.env.CREDENTIAL, maxRetries: 0 };
const client = new OpenAI(options);
const user = (content) => [{ role: "user", content }];
const complete = (more) => client.chat.completions.create({ model, messages: user("hello"), ...more });

const tool = {
  type: "function",
  function: {
    name: "get_weather",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  },
};

async function toolRoundTrip() {
  const messages = user("Use get_weather for Bern.");
  const first = await complete({ messages, tools: [tool] });
  const [call] = first.choices[0].message.tool_calls;
  messages.push(first.choices[0].message);
  messages.push({ role: "tool", tool_call_id: call.id, content: "snow" });
  const second = await complete({ messages, tools: [tool] });
  return { arguments: JSON.parse(call.function.arguments), said: second.choices[0].message.content };
}

async function streamed() {
  const stream = await complete({ stream: true, stream_options: { include_usage: true } });
  let text = "";
  let last;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? "";
    last = chunk;
  }
  return { text, usage: last.usage };
}

async function left() {
  const stream = await complete({
    messages: user("hello simulate: tokens=500 token_ms=20"),
    stream: true,
  });
  let chunks = 0;
  for await (const _ of stream) {
    if (++chunks === 5) break; // which closes the connection
  }
  return chunks;
}

async function jsonSchema() {
  const schema = { type: "object", properties: { ok: { type: "boolean" } }, required: ["ok"] };
  const answer = await complete({
    response_format: { type: "json_schema", json_schema: { name: "s", schema } },
  });
  return JSON.parse(answer.choices[0].message.content);
}

async function embedded() {
  const answer = await client.embeddings.create({ model: embeddingModel, input: ["a", "b"], dimensions: 32 });
  return { lengths: answer.data.map((one) => one.embedding.length), usage: answer.usage };
}

// The class that the client makes of an error, and what it knows of it.
async function refusal(work) {
  try {
    await work();
  } catch (error) {
    return { kind: error.constructor.name, status: error.status, code: error.code };
  }
  return null;
}

const { data, response } = await complete({ n: 2, stop: ["ated]"], logprobs: true }).withResponse();
console.log(
  JSON.stringify({
    whole: data,
    provider: response.headers.get("x-quernel-provider"),
    credential: response.headers.get("x-quernel-credential"),
    streamed: await streamed(),
    tool: await toolRoundTrip(),
    schema: await jsonSchema(),
    left: await left(),
    embedded: await embedded(),
    listed: (await client.models.list()).data,
    retrieved: await client.models.retrieve(model),
    errors: [
      await refusal(() => complete({ n: 99 })),
      await refusal(() => new OpenAI({ ...options, apiKey: "nonsense" }).models.list()),
      await refusal(() => complete({ model: "nobody-has-this" })),
      await refusal(() => complete({ messages: user("simulate: status=500") })),
      await refusal(() => complete({ messages: user("simulate: status=429 retry_after=3") })),
      await refusal(() => complete({ store: true })),
    ],
  }),
);
