"""Requests: three formats, one schema, every fault with its line."""

from __future__ import annotations

import json
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from songkit.errors import OutputError, RequestError
from songkit.request import (
    INSTRUMENTAL_TAGS,
    SUNG_TAGS,
    SongRequest,
    read_requests,
    write_levo,
    write_lrc,
    write_text,
)
from songkit.types import TIERS, Section

WORDS = st.text(string.ascii_letters + string.digits + " ,!?'-:()äöß你好", min_size=1, max_size=30)
LINES = WORDS.map(lambda text: " ".join(text.split())).filter(lambda text: any(c.isalnum() for c in text))
SUNG = st.builds(Section, st.sampled_from(SUNG_TAGS), st.lists(LINES, min_size=1, max_size=4).map(tuple))
SILENT = st.builds(Section, st.sampled_from(INSTRUMENTAL_TAGS))
REQUESTS = st.builds(
    SongRequest,
    id=st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}", fullmatch=True),
    sections=st.tuples(SUNG, st.lists(SUNG | SILENT, max_size=4)).map(lambda parts: (parts[0], *parts[1])),
    description=st.just("") | LINES,
    tier=st.sampled_from(TIERS),
    prompt_audio=st.none(),
)

LAW = settings(derandomize=True, deadline=None, max_examples=40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("requests")


def faults(path: Path, content: str | bytes) -> list[str]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(RequestError) as caught:
        read_requests(path)
    return str(caught.value).split("\n")


# --- laws ----------------------------------------------------------------------------------------------------


@LAW
@given(request=REQUESTS)
def test_plain_text_gives_back_what_was_written(folder, request):
    write_text(folder / "a.txt", request)
    assert read_requests(folder / "a.txt") == [request]


@LAW
@given(request=REQUESTS)
def test_lrc_gives_back_what_was_written(folder, request):
    write_lrc(folder / "a.lrc", request)
    assert read_requests(folder / "a.lrc") == [request]


@LAW
@given(requests=st.lists(REQUESTS, min_size=1, max_size=3, unique_by=lambda request: request.id))
def test_levo_gives_back_what_was_written(folder, requests):
    write_levo(folder / "a.jsonl", requests)
    assert read_requests(folder / "a.jsonl") == requests


@LAW
@given(line=st.text(string.ascii_letters + " .;", min_size=1).filter(lambda text: any(c.isalnum() for c in text)))
def test_levo_keeps_a_line_one_line_whatever_its_punctuation(folder, line):
    request = SongRequest(id="a", sections=(Section("verse", (" ".join(line.split()),)),))
    write_levo(folder / "a.jsonl", [request])
    [read] = read_requests(folder / "a.jsonl")
    assert len(read.sections) == 1
    assert len(read.sections[0].lines) == 1


@settings(derandomize=True, deadline=None, max_examples=80)
@given(content=st.binary(max_size=300) | st.text('[]{}:.;<>0123456789 \nverschouid"\\,', max_size=200).map(str.encode))
@pytest.mark.parametrize("name", ["a.txt", "a.lrc", "a.jsonl"])
def test_any_bytes_give_valid_requests_or_a_located_error(folder, name, content):
    path = folder / name
    path.write_bytes(content)
    try:
        requests, told = read_requests(path), []
    except RequestError as error:
        requests, told = [], str(error).split("\n")
    assert bool(requests) != bool(told)
    assert all(request.validate() == [] for request in requests)
    assert all(line.startswith(str(path)) for line in told)


# --- reading -------------------------------------------------------------------------------------------------


def test_plain_text_reads_headers_and_forgiving_tags(tmp_path, caplog):
    (tmp_path / "ref.wav").touch()
    (tmp_path / "My song!.txt").write_text(
        "\ufeffdescription: female,  pop\r\ntier: medium\nprompt: ref.wav\n\n[Intro]\n[Verse 2]\n  one   line \n",
        "utf-8",
    )
    [request] = read_requests(tmp_path / "My song!.txt")
    assert request == SongRequest(
        id="My-song",
        sections=(Section("intro-short"), Section("verse", ("one line",))),
        description="female, pop",
        tier="medium",
        prompt_audio=tmp_path / "ref.wav",
    )
    assert "[intro] is read as [intro-short]" in caplog.text


def test_levo_lines_are_read_as_levo_means_them(tmp_path):
    record = {
        "idx": 7,
        "gt_lyric": "[intro-short] ; [verse] First line.Second, line. ; [chorus] 雪花舞动.轻轻逝去",
        "descriptions": "male, rock",
        "auto_prompt_audio_type": None,
    }
    (tmp_path / "a.jsonl").write_text(json.dumps(record) + "\n\n", "utf-8")
    [request] = read_requests(tmp_path / "a.jsonl")
    assert request.id == "7"
    assert request.sections == (
        Section("intro-short"),
        Section("verse", ("First line", "Second, line")),
        Section("chorus", ("雪花舞动", "轻轻逝去")),
    )


def test_lrc_lines_are_put_in_the_order_of_their_times(tmp_path):
    (tmp_path / "a.lrc").write_text(
        "[ti:A title]\n[verse]\n[00:01.00]one <00:01.50>word\n[chorus]\n[00:30.00][00:10.5]two\n[verse]\n[00:20]three\n"
    )
    [request] = read_requests(tmp_path / "a.lrc")
    assert [line for section in request.sections for line in section.lines] == ["one word", "two", "three", "two"]


def test_untagged_lrc_is_cut_at_empty_lines_and_repeated_blocks_are_choruses(tmp_path):
    (tmp_path / "a.lrc").write_text(
        "[00:01.00]a\n[00:02.00]\n[00:03.00][00:09.00]hook\n[00:04.00]\n[00:05.00]b\n[00:06.00]\n"
    )
    [request] = read_requests(tmp_path / "a.lrc")
    assert request.sections == (
        Section("verse", ("a",)),
        Section("chorus", ("hook",)),
        Section("verse", ("b",)),
        Section("chorus", ("hook",)),
    )


def test_lrc_starts_are_written_where_they_are_known(tmp_path):
    request = SongRequest(id="a", sections=(Section("verse", ("one", "two")),))
    write_lrc(tmp_path / "a.lrc", request, starts=[0.5, 61.25])
    assert "[00:00.50]one\n[01:01.25]two\n" in (tmp_path / "a.lrc").read_text()
    with pytest.raises(RequestError, match="2 sung lines but 1 start times"):
        write_lrc(tmp_path / "b.lrc", request, starts=[1.0])
    assert not (tmp_path / "b.lrc").exists()


# --- faults --------------------------------------------------------------------------------------------------


def test_every_fault_is_told_with_its_line(tmp_path):
    path = tmp_path / "a.txt"
    told = faults(path, "tier: hihg\n[vers]\nhello\n[inst-short]\nwords\n[chorus]\n[verse]\n---\n")
    assert told == [
        f"{path}:1: unknown tier 'hihg'. Did you mean 'high'?",
        f"{path}:2: unknown section tag [vers]. Did you mean 'verse'?",
        f"{path}:4: [inst-short] is instrumental but holds the line 'words'. Move the words below a [verse], [chorus] "
        "or [bridge] line.",
        f"{path}:6: [chorus] has no words. Add lines below it, or use [inst-short] for music alone.",
        f"{path}:8: the line '---' holds no word. Delete it.",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        (" \n\t\n", "the file is empty"),
        ("hello\nworld\n", ":1: the line 'hello' stands before the first section tag"),
        ("descripton: pop\n[verse]\na\n", ":1: .* Did you mean 'description'?"),
        ("[intro-short]\n[silence]\n", ":1: there is no sung line"),
        ("pure_music: yes\n[verse]\nsing\n", ":1: pure music has no sung lines"),
        ("pure_music: perhaps\n[verse]\nsing\n", ":1: pure_music is 'perhaps'. Write yes or no."),
        (b"[verse]\nna\xefve\n", r":2: byte 10 \(0xef\) is not UTF-8"),
        ("[verse]\na\x07b\n", ":2: .* control character"),
        ("[verse]\n[unfinished\n", ":2: .* starts with a bracket"),
        ("id: ../up\n[verse]\na\n", "the id '../up' cannot name a folder"),
        ("id: .hidden\n[verse]\na\n", "for example 'hidden'"),
        ("id: a\nid: b\n[verse]\na\n", ":2: 'id' is given a second time"),
        ("prompt: none.wav\n[verse]\na\n", ":1: the prompt .*none.wav is not a file"),
        ("[verse]\na\n" * 200_000, "has 2.0 MB; requests are at most 1 MB"),
        ("[00:01.00]a\nb\n", ":2: the line 'b' has no time tag"),
        ("[descripton:x]\n[00:01.00]a\n", ":1: unknown LRC field .* Did you mean 'description'"),
        ("{", ":1: not JSON"),
        ('{"idx": "a"}', ":1: 'gt_lyric' is missing"),
        ('{"idx": "a", "gt_lyric": "[verse] a", "description": "x"}', "Did you mean 'descriptions'"),
        ('{"idx": "a", "gt_lyric": ["verse"]}', "expected a string"),
        ('{"idx": "a", "gt_lyric": "no tag"}', "stands before the first section tag"),
        ('{"idx": "a", "gt_lyric": "[verse] a", "auto_prompt_audio_type": "Pop"}', "not part of songkit"),
        ('{"idx": "a", "gt_lyric": "[verse] a"}\n' * 2, ":2: the idx 'a' is already that of line 1"),
        ('{"idx": ' + "9" * 5000 + ', "gt_lyric": "[verse] a"}', ":1: not JSON"),
        ('{"idx": "a", "gt_lyric": "[verse] a\\ud800"}', "control character"),
    ],
)
def test_bad_files_are_refused_with_place_and_remedy(tmp_path, content, message):
    path = tmp_path / "a.txt"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(RequestError, match=message):
        read_requests(path)


def test_faults_of_all_songs_are_told_at_once(tmp_path):
    path = tmp_path / "a.jsonl"
    told = faults(path, '{"idx": "a", "gt_lyric": "[vers] a"}\n{"idx": "b c", "gt_lyric": "[verse] a"}\n')
    assert [line.split(": ")[0] for line in told] == [f"{path}:1", f"{path}:2"]


def test_a_missing_file_or_a_folder_is_refused(tmp_path):
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(RequestError, match="cannot read the request"):
            read_requests(path)


@pytest.mark.parametrize("write", [write_text, write_lrc, lambda path, request: write_levo(path, [request])])
def test_an_invalid_request_is_not_written(tmp_path, write):
    with pytest.raises(RequestError, match="unknown section tag"):
        write(tmp_path / "a", SongRequest(id="a", sections=(Section("vers", ("a",)),)))
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    request = SongRequest(id="a", sections=(Section("verse", ("a",)),))
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        write_text(tmp_path / "file" / "a.txt", request)


def test_pure_music_needs_neither_lines_nor_sections(tmp_path):
    path = tmp_path / "calm.txt"
    path.write_text("pure_music: yes\ndescription: piano\n")
    [read] = read_requests(path)
    assert read == SongRequest(id="calm", sections=(), description="piano", pure_music=True)
    write_levo(tmp_path / "again.jsonl", [read])
    assert read_requests(tmp_path / "again.jsonl") == [read]


def test_a_section_of_levo_lyrics_without_its_last_full_stop_is_read_with_a_note(tmp_path, caplog):
    path = tmp_path / "songs.jsonl"
    path.write_text('{"idx": "a", "gt_lyric": "[verse] One. Two ; [chorus] Three. ; [bridge] 雪花"}')
    [read] = read_requests(path)
    assert [section.lines for section in read.sections] == [("One", "Two"), ("Three",), ("雪花",)]
    assert [record.args[2] for record in caplog.records] == ["verse"]
    assert "write 'One. Two.'" in caplog.text
