"""`quernel libraries`: what operators do with public libraries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from functions.libraries.errors import SourceError
from functions.libraries.sources import folder as folder_source
from functions.libraries.sources.files import Skipped
from functions.libraries.sources.folder import files_of_folder
from functions.libraries.sources.snapshots import packed
from tests.chat.conftest import wait_for
from tests.libraries.conftest import Shelf
from tests.test_cli import Quernel, quernel

__all__ = ["quernel"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With two pages, and things that are none."""
    made = tmp_path / "lamp"
    (made / "docs").mkdir(parents=True)
    (made / "README.md").write_text("# Lamp\n\nA library for lighthouses.\n", encoding="utf-8")
    (made / "docs/beam.md").write_text("# Beams\n\nTurn the beam.\n", encoding="utf-8")
    (made / "setup.py").write_text("x = 1\n", encoding="utf-8")
    (made / "docs/secret.md").symlink_to("/etc/passwd")
    (made / "docs/loop").symlink_to(made)
    return made


def told(quernel: Quernel, *arguments: str) -> dict[str, Any]:
    """What a command answers that goes well."""
    status, out, err = quernel("libraries", *arguments, "--json")
    assert status == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def ready(shelf: Shelf, library_id: str, chunks: int) -> dict[str, Any]:
    """The library, once the run's worker has indexed so many chunks of it."""

    def row() -> dict[str, Any] | None:
        [found] = shelf.rows("select * from public.libraries where id = %s", library_id)
        is_ready = found["state"] == "ready" and found["total_chunks"] == chunks
        return found if is_ready else None

    return wait_for(row, 30)


def test_a_folder_is_packed_stored_and_indexed_and_later_anew(
    quernel: Quernel, shelf: Shelf, folder: Path
) -> None:
    library_id = f"/{shelf.mark}/lamp"
    answer = told(
        quernel, "add", library_id, "folder", str(folder), "--title", "Lamp", "--actor", "ada"
    )
    assert answer["library_id"] == library_id
    row = ready(shelf, library_id, 2)
    assert (row["title"], row["organization_id"]) == ("Lamp", None)
    assert row["source_url"].startswith(f"folders{library_id}/")
    [log] = shelf.rows(
        "select * from private.operator_actions where subject = %s", f"library:{library_id}"
    )
    assert (log["actor"], log["action"]) == ("ada", "library_add")

    (folder / "docs/oil.md").write_text("# Oil\n\nFill the oil.\n", encoding="utf-8")
    told(quernel, "update", library_id, str(folder), "--actor", "ada")
    again = ready(shelf, library_id, 3)
    assert again["source_url"] != row["source_url"]
    told(quernel, "delete", library_id, "--actor", "ada")
    assert shelf.rows("select from public.libraries where id = %s", library_id) == []
    for path in (row["source_url"], again["source_url"]):
        assert shelf.rows(
            "select from private.tasks where kind = 'files_delete' and payload -> 'paths' ? %s",
            path,
        )


def test_what_is_no_folder_of_documentation_is_refused(
    quernel: Quernel, shelf: Shelf, tmp_path: Path
) -> None:
    for place in (tmp_path / "absent", tmp_path):
        status, _, err = quernel(
            "libraries", "add", f"/{shelf.mark}/x", "folder", str(place), "--actor", "ada"
        )
        assert (status, "folder" in err or "documentation" in err) == (1, True)
    assert shelf.rows("select from public.libraries where id = %s", f"/{shelf.mark}/x") == []


def test_only_uploads_are_put_anew(quernel: Quernel, shelf: Shelf, folder: Path) -> None:
    library_id = shelf.add("lamp")
    status, _, err = quernel("libraries", "update", library_id, str(folder), "--actor", "ada")
    assert (status, "uploaded" in err) == (1, True)


def test_an_archive_of_two_libraries_stays_with_the_other(shelf: Shelf) -> None:
    path = f"archives/{shelf.mark}.zip"
    first, second = (
        shelf.add(name, p_source_kind="archive", p_source_url=path) for name in ("one", "two")
    )
    for library_id, left in ((first, 0), (second, 1)):
        with shelf.connection.transaction():
            shelf.call("backend.library_source_put", library_id, f"{path}.new", "ada")
            shelf.connection.execute(
                "delete from private.tasks where split_part(key, ' ', 1) = %s", [library_id]
            )
        tasks = shelf.rows(
            "select from private.tasks where kind = 'files_delete' and payload -> 'paths' ? %s",
            path,
        )
        assert len(tasks) == left


def test_links_are_not_followed_and_bounds_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skipped = Skipped()
    files = files_of_folder(folder, skipped)
    assert [file.path for file in files] == ["README.md", "docs/beam.md"]
    assert skipped.counts == {"link": 1}
    assert packed(files, {}) == packed(files_of_folder(folder, Skipped()), {})

    (folder / "docs/huge.md").write_bytes(b"x" * 2_000)
    monkeypatch.setattr(folder_source, "MAX_FILE_BYTES", 1_000)
    monkeypatch.setattr(folder_source, "MAX_FILES", 1)
    skipped = Skipped()
    assert [file.path for file in files_of_folder(folder, skipped)] == ["README.md"]
    assert skipped.counts == {"link": 1, "too_large": 1, "bound_reached": 1}


def test_a_folder_without_a_page_is_none(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as refused:
        files_of_folder(tmp_path, Skipped())
    assert refused.value.code == "no_documentation"
