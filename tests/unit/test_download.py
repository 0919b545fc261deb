"""Downloads by the real HTTP client from a server on loopback, from folders and from archives."""

from __future__ import annotations

import hashlib
import io
import logging
import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from downslope.download import download_dataset
from downslope.errors import StudyError
from downslope.tables import read_table
from loopback import Answer, Loopback

DATA = b'{"prompt": "one"}\n{"prompt": "two"}\n' * 50
SHA256 = hashlib.sha256(DATA).hexdigest()
REGISTER = Path(__file__).parents[2] / "config" / "datasets.tsv"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    with Loopback() as running:
        yield running


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "study").mkdir()
    return tmp_path / "study"


def row(*sources: str, **changes: object) -> dict[str, object]:
    return {
        "dataset": "sayings",
        "file": "sayings.jsonl",
        "mirror_path": "prize/sayings.jsonl",
        "bytes": len(DATA),
        "sha256": SHA256,
        "sources": " ".join(sources),
        **changes,
    }


def download(study: Path, *sources: str, mirror: str | None = None, **changes: object) -> bytes:
    """What a download leaves under the final name, which must then be the only file there."""
    target = study / "resources" / "sayings.jsonl"
    download_dataset(row(*sources, **changes), target, study=study, mirror=mirror, pauses=(0, 0))
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    return target.read_bytes()


def refusal(study: Path, *sources: str, mirror: str | None = None, **changes: object) -> str:
    """The message of a download that has to fail, and has to leave nothing behind."""
    target = study / "resources" / "sayings.jsonl"
    target.parent.mkdir()
    with pytest.raises(StudyError) as caught:
        download_dataset(
            row(*sources, **changes), target, study=study, mirror=mirror, pauses=(0, 0)
        )
    assert list(target.parent.iterdir()) == []
    return str(caught.value)


def archive(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return buffer.getvalue()


def test_a_mirror_folder_comes_before_every_source(study, server, tmp_path):
    place = tmp_path / "mirror" / "prize" / "sayings.jsonl"
    place.parent.mkdir(parents=True)
    place.write_bytes(DATA)
    source = server.serve("/sayings.jsonl", Answer(DATA))
    assert download(study, source, mirror=str(tmp_path / "mirror")) == DATA
    assert server.asked == []


def test_a_mirror_may_be_an_address(study, server):
    server.serve("/mirror/prize/sayings.jsonl", Answer(DATA))
    assert download(study, mirror=f"{server.url}/mirror/") == DATA


def test_what_the_mirror_lacks_or_has_wrong_comes_from_the_next_source(study, server, tmp_path):
    place = tmp_path / "mirror" / "prize" / "sayings.jsonl"
    place.parent.mkdir(parents=True)
    source = server.serve("/sayings.jsonl", Answer(DATA))
    for old in (None, b"an older edition"):
        if old:
            place.write_bytes(old)
        assert download(study, source, mirror=str(tmp_path / "mirror")) == DATA


def test_a_relative_mirror_is_refused_because_jobs_run_elsewhere(study):
    assert "absolute path" in refusal(study, mirror="../data")


def test_a_body_cut_short_is_asked_for_again_from_its_beginning(study, server, monkeypatch):
    monkeypatch.setattr("downslope.web.BLOCK", 10)  # ten blocks are written before the cut
    source = server.serve("/sayings.jsonl", Answer(DATA, cut=100), Answer(DATA))
    assert download(study, source) == DATA
    assert len(server.asked) == 2


def test_a_body_always_cut_short_is_no_file(study, server):
    source = server.serve("/sayings.jsonl", Answer(DATA, cut=100))
    assert "ended early" in refusal(study, source)
    assert len(server.asked) == 3


def test_404_goes_to_the_next_source_at_once(study, server):
    gone = server.serve("/gone.jsonl", Answer(status=404))
    source = server.serve("/sayings.jsonl", Answer(DATA))
    assert download(study, gone, source) == DATA
    assert server.paths() == ["/gone.jsonl", "/sayings.jsonl"]


def test_503_is_tried_again(study, server):
    busy = Answer(status=503)
    source = server.serve("/sayings.jsonl", busy, busy, Answer(DATA))
    assert download(study, source) == DATA
    assert len(server.asked) == 3


@pytest.mark.parametrize("wrong", [DATA.replace(b"one", b"ONE"), DATA[:-1], b""])
def test_wrong_bytes_say_expected_got_and_source_and_go_to_the_next(study, server, caplog, wrong):
    caplog.set_level(logging.INFO)
    first = server.serve("/first.jsonl", Answer(wrong))
    second = server.serve("/second.jsonl", Answer(DATA))
    assert download(study, first, second) == DATA
    assert server.paths() == ["/first.jsonl", "/second.jsonl"]
    line = next(r.message for r in caplog.records if "/first.jsonl" in r.message)
    got = hashlib.sha256(wrong).hexdigest()
    assert f"expected {len(DATA)} bytes with sha256 {SHA256}" in line
    assert f"got {len(wrong)} bytes with sha256 {got}" in line


def test_a_redirect_to_a_login_page_is_called_by_its_name(study, server):
    login = server.serve("/login", Answer(b"<!DOCTYPE html><p>Log in"))
    headers = {"Location": f"{login}?ticket=secret"}
    source = server.serve("/sayings.jsonl", Answer(status=302, headers=headers))
    message = refusal(study, source)
    assert "web page" in message
    assert f"redirect to {login}" in message
    assert "secret" not in message


def test_a_refused_connection_goes_to_the_next_source(study, server):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    source = server.serve("/sayings.jsonl", Answer(DATA))
    assert download(study, f"http://127.0.0.1:{port}/sayings.jsonl", source) == DATA
    closed = f"http://127.0.0.1:{port}/sayings.jsonl"
    with pytest.raises(StudyError, match="Connection refused"):
        download_dataset(row(closed), study / "x", study=study, mirror=None, pauses=(0,))


def test_a_member_of_an_archive(study, server):
    whole = archive(**{"release/sayings.jsonl": DATA, "release/README.md": b"read me"})
    source = server.serve("/release.zip", Answer(whole))
    assert download(study, f"{source}!/release/sayings.jsonl") == DATA


def test_a_member_of_an_archive_inside_an_archive(study, server):
    inner = archive(**{"json/sayings.jsonl": DATA})
    source = server.serve("/all.zip", Answer(archive(**{"release/data.zip": inner})))
    assert download(study, f"{source}!/release/data.zip!/json/sayings.jsonl") == DATA


def test_an_archive_that_holds_escaping_names_writes_none_of_them(study, server):
    evil = {"../../evil": DATA, "/evil": DATA, "sayings.jsonl": DATA}
    source = server.serve("/slip.zip", Answer(archive(**evil)))
    before = {path for path in study.parent.rglob("*") if path.is_file()}
    assert download(study, f"{source}!/sayings.jsonl") == DATA
    after = {path for path in study.parent.rglob("*") if path.is_file()}
    assert after - before == {study / "resources" / "sayings.jsonl"}


@pytest.mark.parametrize("name", ["../evil", "/evil", "a\\..\\evil", "a/../../evil"])
def test_an_escaping_member_name_is_refused_unasked(study, server, name):
    source = server.serve("/slip.zip", Answer(archive(**{name: DATA})))
    assert "outside its folder" in refusal(study, f"{source}!/{name}")
    assert server.asked == []


def test_a_missing_member_and_a_broken_archive_say_so(study, server):
    source = server.serve("/release.zip", Answer(archive(other=DATA)))
    page = server.serve("/page.zip", Answer(b"<html>please log in</html>"))
    message = refusal(study, f"{source}!/sayings.jsonl", f"{page}!/sayings.jsonl")
    assert "no member sayings.jsonl" in message
    assert "not a zip archive. It is a web page" in message


def test_an_encrypted_member_says_so(study, server):
    plain = bytearray(archive(**{"sayings.jsonl": DATA}))
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        plain[plain.index(signature) + flags] |= 0x1
    source = server.serve("/locked.zip", Answer(bytes(plain)))
    assert "encrypted" in refusal(study, f"{source}!/sayings.jsonl")


def test_a_bomb_is_given_up_at_the_registered_size(study, server):
    source = server.serve("/bomb.zip", Answer(archive(**{"sayings.jsonl": bytes(30_000_000)})))
    message = refusal(study, f"{source}!/sayings.jsonl")
    assert f"longer than the {len(DATA)} bytes expected" in message


def test_no_user_password_or_query_is_ever_written(study, server, caplog):
    caplog.set_level(logging.DEBUG)
    logging.getLogger("urllib3").setLevel(logging.INFO)
    server.serve("/sayings.jsonl", Answer(status=503))
    place = f"127.0.0.1:{server.port}"
    message = refusal(
        study,
        f"http://user:hush@{place}/sayings.jsonl?key=hush",
        "http://user:hush@127.0.0.1:9/sayings.jsonl?key=hush",
        mirror=f"http://user:hush@{place}/mirror",
    )
    assert f"http://{place}/sayings.jsonl: HTTP status 503" in message
    assert "hush" not in message + caplog.text


def test_a_file_of_the_study_is_a_source(study):
    (study / "own").mkdir()
    (study / "own" / "sayings.jsonl").write_bytes(DATA)
    assert download(study, "own/sayings.jsonl", mirror_path="") == DATA


def test_a_file_outside_the_study_is_none(study):
    (study.parent / "sayings.jsonl").write_bytes(DATA)
    message = refusal(study, "../sayings.jsonl")
    assert "outside its folder" in message
    assert "by other means" in message


def test_a_file_of_the_study_that_was_changed_is_to_be_pinned_anew(study: Path) -> None:
    (study / "own.jsonl").write_bytes(b"abc")
    message = refusal(study, "own.jsonl")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # NIST's, of abc
    assert f"write its bytes (3) and sha256 ({digest}) into config/datasets.tsv" in message
    assert "DOWNSLOPE_MIRROR" not in message


def test_a_row_without_sha256_is_refused_with_the_value_to_enter(study):
    (study / "own.jsonl").write_bytes(DATA)
    message = refusal(study, "own.jsonl", sha256="")
    assert SHA256 in message
    assert str(len(DATA)) in message


def test_a_failure_lists_every_source_and_says_where_to_put_the_file(study, server):
    first = server.serve("/first", Answer(status=404))
    second = server.serve("/second", Answer(b"other"))
    message = refusal(study, first, second, "ftp://host/sayings.jsonl")
    for part in ("first: HTTP status 404", "second: expected", "only http", "prize/sayings.jsonl"):
        assert part in message


def test_a_failure_leaves_an_earlier_file_alone(study):
    target = study / "sayings.jsonl"
    target.write_bytes(DATA)
    with pytest.raises(StudyError):
        download_dataset(row("nowhere"), target, study=study, mirror=None)
    assert target.read_bytes() == DATA


# Items per task: McKenzie et al. 2023, Table 1; TruthfulQA: Lin et al. 2022; the accuracies of
# Michaelov and Bergen 2023: 12 outcomes of 64 checkpoints.
PUBLISHED_ITEMS = {
    "hindsight-neglect": 315,
    "into-the-unknown": 1824,
    "memo-trap": 936,
    "modus-tollens": 1236,
    "neqa": 300,
    "pattern-matching-suppression": 1428,
    "redefine": 1244,
    "repetitive-algebra": 1000,
    "resisting-correction": 7344,
    "sig-figs": 20897,
    "prompt-injection": 1000,
    "truthfulqa": 817,
    "pythia-accuracies": 12 * 64,
}


def test_the_register_holds_every_published_data_set():
    rows = read_table(REGISTER, "datasets")
    assert {row["dataset"]: row["items"] for row in rows} == PUBLISHED_ITEMS
    assert all(row["sources"].startswith("https://") for row in rows)


def test_registered_files_come_from_the_mirror(mirror, tmp_path):
    rows = [
        row for row in read_table(REGISTER, "datasets") if (mirror / row["mirror_path"]).exists()
    ]
    assert len(rows) >= 5
    for number, entry in enumerate(rows):
        target = tmp_path / str(number)
        source = download_dataset(entry, target, study=tmp_path, mirror=str(mirror.resolve()))
        assert source == str(mirror.resolve() / entry["mirror_path"])
        if entry["format"] == "prize":
            assert len(target.read_text(encoding="utf-8").splitlines()) == entry["items"]
