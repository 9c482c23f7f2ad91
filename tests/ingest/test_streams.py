"""streams.yaml: what is read, what is told, what is kept, and what never leaks."""

from __future__ import annotations

import json
import pickle
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ingest.camera import Camera, Rule
from ingest.errors import GridwatchError
from ingest.secret import SecretUrl, redact_url, url_fault
from ingest.secret_source import resolve_secret
from ingest.source_lines import Problem, read_source
from ingest.streams import load_streams, read_streams

CAMERA = """\
  - id: {id}
    name: 村口
    village: 东庄
    lon: 115.9
    lat: 38.4
    main: {main}
"""


def _write(folder: Path, *cameras: tuple[str, str], head: str = "", tail: str = "") -> Path:
    path = folder / "streams.yaml"
    text = head + "cameras:\n" + "".join(CAMERA.format(id=i, main=main) for i, main in cameras) + tail
    path.write_text(text, encoding="utf-8")
    return path


def _codes(problems: list[Problem]) -> list[tuple[int, str]]:
    return [(problem.line, problem.code) for problem in problems]


def test_defaults_and_lines(tmp_path: Path) -> None:
    streams = load_streams(_write(tmp_path, ("c-1", "rtsp://h/1"), ("c-2", "rtsps://[2001:db8::1]:322/1")))
    camera = streams.camera("c-2")
    assert (camera.transport, camera.audio, camera.sub, camera.zones) == ("auto", "off", None, [])
    assert streams.timezone == "Asia/Shanghai" and not streams.synthetic
    assert (streams.line("c-1"), streams.line("c-2")) == (2, 8)
    with pytest.raises(KeyError):
        streams.camera("c-3")


def test_a_bad_camera_takes_only_itself(tmp_path: Path) -> None:
    path = _write(tmp_path, ("c-1", "rtsp://h/1"), ("c 2", "rtsp://h/2"), ("c-3", "rtsp://h/3"), tail="  - nonsense\n")
    streams, problems = read_streams(path)
    assert streams is not None and [camera.id for camera in streams.cameras] == ["c-1", "c-3"]
    assert _codes(problems) == [(8, "camera.bad_id"), (20, "file.needs_mapping")]
    assert [problem.subject for problem in problems] == [("camera", "c 2"), ("camera", "#4")]


def test_load_names_the_first_problem_and_the_count(tmp_path: Path) -> None:
    path = _write(tmp_path, ("c-1", "h/1"), ("c-1", "rtsp://h:99999/2"))
    with pytest.raises(GridwatchError) as caught:
        load_streams(path)
    assert (caught.value.code, caught.value.facts["count"], caught.value.facts["line"]) == ("file.rejected", 2, 7)
    assert "不是以 rtsp://" in caught.value.sentence("zh")
    assert "does not begin with rtsp://" in str(caught.value)


def test_the_same_url_twice_is_a_warning(tmp_path: Path) -> None:
    streams, problems = read_streams(_write(tmp_path, ("c-1", "rtsp://h/1"), ("c-2", "rtsp://h/1")))
    assert streams is not None and len(streams.cameras) == 2
    assert [(p.severity, p.code) for p in problems] == [("warning", "camera.same_url")]


def test_aliases_and_merge_keys_work_and_bombs_do_not(tmp_path: Path) -> None:
    path = tmp_path / "streams.yaml"
    path.write_text(
        "cameras:\n- &first {id: c-1, name: a, village: v, lon: 1, lat: 2, main: 'rtsp://h/1'}\n"
        "- {<<: *first, id: c-2, main: 'rtsp://h/2'}\n",
        encoding="utf-8",
    )
    assert [camera.id for camera in load_streams(path).cameras] == ["c-1", "c-2"]
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
    )
    for text in (bomb, "cameras: &a [*a]\n"):
        path.write_text(text, encoding="utf-8")
        streams, problems = read_streams(path)
        assert streams is None and [problem.code for problem in problems] == ["file.too_deep"]


@pytest.mark.parametrize(
    ("content", "code", "line"),
    [
        (b"", "streams.no_cameras", 1),
        (b"cameras: 5\n", "streams.no_cameras", 1),
        (b"timezone: Asia/Shanghai\ncameras:\n", "streams.no_cameras", 2),
        (b"cameras: []\n# \xff\n", "file.not_utf8", 2),
        (b"cameras:\n\t- id: x\n", "file.not_yaml", 2),
        (b"cameras: [\n", "file.not_yaml", 2),
        (b"cameras: !!python/object:os.system x\n", "file.not_yaml", 1),
        (b"cameras: []\n---\ncameras: []\n", "file.not_yaml", 2),
        (b"cameras: []\ntimezone: Mars/Olympus\n", "streams.bad_timezone", 2),
        (b"cameras: []\ntimezone: ../../etc/passwd\n", "streams.bad_timezone", 2),
        (b"cameras: []\ncamras: []\n", "file.unknown_key_close", 2),
    ],
)
def test_what_is_wrong_with_the_whole_file(tmp_path: Path, content: bytes, code: str, line: int) -> None:
    path = tmp_path / "streams.yaml"
    path.write_bytes(content)
    assert _codes(read_streams(path)[1]) == [(line, code)]


def test_a_folder_and_nothing(tmp_path: Path) -> None:
    assert _codes(read_streams(tmp_path / "none.yaml")[1]) == [(1, "file.missing")]
    (tmp_path / "folder.yaml").mkdir()
    assert _codes(read_streams(tmp_path / "folder.yaml")[1]) == [(1, "file.unreadable")]


@settings(max_examples=150, deadline=None)
@given(noise=st.binary(max_size=12), at=st.integers(0, 400), cut=st.integers(0, 40))
@example(noise=b"\x00", at=20, cut=0)
@example(noise=b"- &a *a", at=9, cut=0)
def test_no_content_raises(tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int, cut: int) -> None:
    folder = tmp_path_factory.getbasetemp()
    whole = _write(folder, ("c-1", "rtsp://h/1"), head="timezone: Asia/Shanghai\n").read_bytes()
    at = min(at, len(whole))
    path = folder / "noise.yaml"
    path.write_bytes(whole[:at] + noise + whole[at + cut :])
    streams, problems = read_streams(path)
    assert streams is not None or problems
    for problem in problems:
        assert problem.line >= 1 and problem.sentence("zh") and problem.sentence("en")
        assert not problem.sentence("en").startswith(problem.code)  # every code has its sentence


@settings(max_examples=30, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=20,
    ),
    st.sampled_from([None, 0, 2]),
)
def test_json_is_read_as_python_reads_it(
    tmp_path_factory: pytest.TempPathFactory, data: object, indent: int | None
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(data, indent=indent), encoding="utf-8")
    source, problems = read_source(path)
    assert source is not None and not problems
    assert source.data == data
    assert source.line(()) == 1


def test_lines_of_json_values(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a":\n [1,\n {"b": "x\\n{", "c":\n2}],\n"d": 3}', encoding="utf-8")
    source, _ = read_source(path)
    assert source is not None
    assert {place: source.line(place) for place in (("a",), ("a", 0), ("a", 1, "b"), ("a", 1, "c"), ("d",))} == {
        ("a",): 1,
        ("a", 0): 2,
        ("a", 1, "b"): 3,
        ("a", 1, "c"): 3,
        ("d",): 5,
    }
    assert source.line(("a", 1, "zz", 4)) == 3  # what is missing stands where it should be


def test_secrets_from_environment_and_file(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("p@ss/w:rd#?\n", encoding="utf-8")
    (tmp_path / "url").write_text("rtsp://a:b@h/whole\n", encoding="utf-8")
    env = {"USER_1": "ad min", "HOST": "192.0.2.9:8554"}
    cameras = [
        ("c-1", "rtsp://${USER_1}:${file:password}@${HOST}/main"),
        ("c-2", "file:url"),
        ("c-3", "rtsp://${HOST}/a@b"),
    ]
    streams, problems = read_streams(_write(tmp_path, *cameras), env)
    assert not problems and streams is not None
    assert streams.camera("c-1").main.credentials == ("ad min", "p@ss/w:rd#?")
    assert streams.camera("c-1").main.bare == "rtsp://192.0.2.9:8554/main"
    assert streams.camera("c-2").main.reveal() == "rtsp://a:b@h/whole"
    assert streams.camera("c-3").main.bare == "rtsp://192.0.2.9:8554/a@b"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("rtsp://${NOPE}@h/", "secret.no_variable"),
        ("rtsp://${a b}@h/", "secret.bad_name"),
        ("file:gone", "secret.no_file"),
    ],
)
def test_a_secret_that_is_not_there_is_named(tmp_path: Path, text: str, code: str) -> None:
    with pytest.raises(GridwatchError) as caught:
        resolve_secret(text, {}, tmp_path)
    assert caught.value.code == code
    streams, problems = read_streams(_write(tmp_path, ("c-1", "rtsp://h/1"), ("c-2", f'"{text}"')), {})
    assert streams is not None and [camera.id for camera in streams.cameras] == ["c-1"]
    assert _codes(problems) == [(13, code)]


def test_a_camera_never_shows_its_password() -> None:
    camera = Camera(
        id="c", name="n", village="v", lon=1, lat=2, main="rtsp://u:geheim@h/1", sub=SecretUrl("rtsp://u:geheim@h/2")
    )
    for text in (str(camera), repr(camera), camera.model_dump_json(), str(camera.model_dump()), f"{camera.main}"):
        assert "geheim" not in text
    assert camera.main.reveal() == "rtsp://u:geheim@h/1"
    assert pickle.loads(pickle.dumps(camera)) == camera


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://u:p@h:554/a", "rtsp://***@h:554/a"),
        ("rtsp://h/a@b", "rtsp://***@b"),  # may be a password with a slash: rather too much hidden than too little
        ("rtsp://u:p/geheim@h/a", "rtsp://***@h/a"),
        ("u:geheim@h/a", "***@h/a"),
        ("rtsp://h/user=admin&password=geheim&channel=1", "rtsp://h/user=admin&password=***&channel=1"),
    ],
)
def test_redaction(url: str, shown: str) -> None:
    assert redact_url(url) == shown


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("rtsp://h", None),
        ("RTSPS://u:p%2F@h:322/x?y=1", None),
        ("rtsp://[::1]:554/x", None),
        ("http://h/x", "scheme"),
        ("h/x", "scheme"),
        ("rtsp:///x", "host"),
        ("rtsp://u:p@/x", "host"),
        ("rtsp://:554/x", "host"),
        ("rtsp://h:0/x", "port"),
        ("rtsp://h:65536/x", "port"),
        ("rtsp://h:5x/x", "port"),
        ("rtsp://::1/x", "port"),
        ("rtsp://u:p/q@h/x", "user"),
        ("rtsp://u:p#q@h/x", "user"),
        ("rtsp://h/a b", "characters"),
        ("rtsp://h/a\r\nX: y", "characters"),
    ],
)
def test_url_faults(url: str, fault: str | None) -> None:
    assert url_fault(url) == fault


@pytest.mark.parametrize(
    ("hours", "utc_hour", "active"),
    [
        (["00:00-24:00"], 3, True),
        (["18:00-06:00"], 10, True),  # 18:00 in Shanghai: the start counts
        (["18:00-06:00"], 22, False),  # 06:00: the end does not
        (["18:00-06:00"], 21, True),
        (["08:00-12:00", "14:00-18:00"], 5, False),
        (["08:00-12:00", "14:00-18:00"], 6, True),
        (["20:00-24:00"], 15, True),
        (["20:00-24:00"], 16, False),
    ],
)
def test_active_hours_are_the_towns(hours: list[str], utc_hour: int, active: bool) -> None:
    rule = Rule(id="r", zone="z", active_hours=hours)
    assert rule.is_active(datetime(2026, 3, 1, utc_hour, tzinfo=UTC), ZoneInfo("Asia/Shanghai")) is active
