"""The process in which pages are read: `python -m functions.libraries.children.pages`."""

from __future__ import annotations

from functions.core.errors import OperatorError
from functions.libraries.children.serve import serve
from functions.libraries.chunking import chunk
from functions.libraries.errors import ParseError
from functions.libraries.parsing import parse
from functions.libraries.reading import ANSWERS, JOBS, Failure, Page


def answered(job: bytes, content: bytes) -> list[bytes]:
    """One frame: a page, or why there is none."""
    return [ANSWERS.dump_json(_page(job, content))]


def _page(job: bytes, content: bytes) -> Page | Failure:
    told = JOBS.validate_json(job)
    try:
        document = parse(content, name=told.name, media_type=told.media_type, charset=told.charset)
        chunks = chunk(document, source_url=told.source_url)
    except ParseError as error:
        return Failure(error.code, error.message)
    except OperatorError as error:
        return Failure(error.operator_code, error.operator_message, is_operators=True)
    except MemoryError:
        return Failure("too_large", "The file takes too much memory to read.")
    except RecursionError:
        return Failure("too_deep", "The file is nested too deeply.")
    return Page(
        title=document.title,
        kind=document.kind,
        metadata=dict(document.metadata),
        encoding=document.encoding,
        warnings=document.warnings,
        removed=dict(document.removed),
        chunks=chunks,
    )


if __name__ == "__main__":
    serve(answered)
