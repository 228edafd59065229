"""Files of keys: what they may hold, what they tell of themselves, and what becomes of changes."""

import hmac
import logging
from pathlib import Path

import pytest

from services.frame.program.api_keys import ApiKeys, ClientKey, bearer_key
from services.frame.program.startup import StartupError

ALICE, BOB = "a" * 16, "BOB-._~+/key0123=="


def written(path: Path, text: str) -> Path:
    """A file of its owner's alone, another one than before: clocks may stand still between two writings."""
    path.unlink(missing_ok=True)
    path.touch(0o600)
    path.write_text(text)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return written(tmp_path / "keys.txt", f"# who calls\n\nalice: {ALICE}\n  bob.at-home:{BOB}  \n")


def test_a_key_has_a_name(file: Path) -> None:
    keys = ApiKeys(file)
    assert (keys.name_of(ALICE), keys.name_of(BOB)) == ("alice", "bob.at-home")
    for other in ("", ALICE[:-1], ALICE + "a", "alice", f"alice: {ALICE}", "日本", "\udcff"):
        assert keys.name_of(other) is None
    assert keys.num_refused == 7


def test_every_key_is_compared_in_full(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append(len(one) + len(other))
        return one == other

    keys = ApiKeys(file)
    monkeypatch.setattr(hmac, "compare_digest", compare)
    for shown in (ALICE, BOB, "", "x" * 5000):
        compared.clear()
        keys.name_of(shown)
        assert compared == [64, 64]


def test_a_changed_file_counts_with_the_next_call(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    keys = ApiKeys(file)
    with caplog.at_level(logging.INFO):
        written(file, f"carol: {BOB}")
        assert (keys.name_of(ALICE), keys.name_of(BOB)) == (None, "carol")
    assert caplog.messages == ["the file of keys has changed, its keys are taken now: carol"]


@pytest.mark.parametrize("broken", ["", "alice", f"alice: {ALICE}\nbob: {ALICE}", None])
def test_a_broken_file_leaves_the_keys_as_they_were(
    file: Path, broken: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    keys = ApiKeys(file)
    file.unlink()
    if broken is not None:
        written(file, broken)
    for _ in range(2):
        assert keys.name_of(ALICE) == "alice"
    (told,) = caplog.messages
    assert told.startswith("the file of keys has changed and cannot be used, the keys before go on: --api-key-file ")
    written(file, f"dora: {BOB}")
    assert (keys.name_of(ALICE), keys.name_of(BOB)) == (None, "dora")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "holds no key: write `name: key` into it, one a line"),
        ("# nothing\n", "holds no key"),
        (ALICE, "line 1 is no `name: key`"),
        (f"# a\nalice {ALICE}", "line 2 is no `name: key`"),
        (f": {ALICE}", "line 1 is no `name: key`"),
        (f"al ice: {ALICE}", "line 1 is no `name: key`"),
        (f"{'a' * 65}: {ALICE}", "line 1 is no `name: key`"),
        ("alice: short-secret", "line 1 has a key of 12 characters: it needs at least 16"),
        ("alice: a key with secret blanks", "line 1 has no key that a header takes"),
        ("alice: secret-日本-secret-secret", "line 1 has no key that a header takes"),
        (f"alice: {ALICE}\nalice: {BOB}", "line 2 has the name alice a second time"),
        (f"alice: {ALICE}\nbob: {ALICE}", "line 2 has the key of alice a second time"),
    ],
)
def test_what_is_no_file_of_keys_is_refused_without_its_keys(tmp_path: Path, text: str, sentence: str) -> None:
    file = written(tmp_path / "keys.txt", text)
    with pytest.raises(StartupError) as refused:
        ApiKeys(file)
    told = str(refused.value)
    assert told.startswith(f"--api-key-file {file}")
    assert sentence in told
    assert "secret" not in told and ALICE not in told


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"^--api-key-file \S+ cannot be read: No such file or directory$"):
        ApiKeys(tmp_path / "none.txt")
    (tmp_path / "bytes.txt").write_bytes(b"alice: \xff")
    with pytest.raises(StartupError, match=r"^--api-key-file \S+ is not valid UTF-8$"):
        ApiKeys(tmp_path / "bytes.txt")


@pytest.mark.parametrize("make", [ApiKeys, ClientKey])
def test_a_file_that_everybody_reads_is_warned_of(
    make: type[ApiKeys] | type[ClientKey], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = written(tmp_path / "keys.txt", f"alice: {ALICE}")
    make(file)
    assert not caplog.messages
    file.chmod(0o644)
    make(file)
    (told,) = caplog.messages
    assert told.endswith(f"{file} can be read by every user of this machine: chmod o-r {file}")


@pytest.mark.parametrize("text", [ALICE, f"alice: {ALICE}", f"# mine\n\n alice:{ALICE} \n"])
def test_a_client_has_one_key(tmp_path: Path, text: str) -> None:
    assert ClientKey(written(tmp_path / "key.txt", text))() == ALICE


def test_a_client_shows_the_key_that_its_file_has_now(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = written(tmp_path / "key.txt", ALICE)
    key = ClientKey(file)
    written(file, "short-secret")
    assert (key(), key()) == (ALICE, ALICE)
    (told,) = caplog.messages
    assert told.startswith("the key has changed and cannot be used, the one before goes on: --peer-api-key-file ")
    assert "secret" not in told
    written(file, BOB)
    assert key() == BOB


@pytest.mark.parametrize("text", ["", f"{ALICE}\n{BOB}"])
def test_a_client_of_several_keys_or_none_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(StartupError, match=r"^--peer-api-key-file \S+ holds [02] keys: a client has one, in one line$"):
        ClientKey(written(tmp_path / "key.txt", text))


@pytest.mark.parametrize(
    ("header", "key"),
    [("Bearer k", "k"), ("bearer  k ", "k"), ("BEARER k", "k"), ("Basic k", ""), ("k", ""), ("", ""), ("Bearer", "")],
)
def test_the_key_of_a_header(header: str, key: str) -> None:
    assert bearer_key(header) == key
