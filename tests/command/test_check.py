"""`gridwatch check`: a small town of two grids and two cameras, broken in one place a test."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click.testing
import pytest

from command.cli.check import command

ROOT = Path(__file__).parents[2]

STREAMS = """\
timezone: Asia/Shanghai
cameras:
  - id: c-1
    name: 东庄村口
    village: 东庄
    lon: 115.905
    lat: 38.405
    heading_deg: 90
    main: rtsp://viewer:geheim@192.0.2.1:554/main
    zones:
      - {id: gate, name: 入口, polygon: [[0.1, 0.1], [0.9, 0.1], [0.9, 0.9], [0.1, 0.9]]}
    rules:
      - {id: r1, zone: gate, classes: [person], active_hours: ["18:00-06:00"]}
  - id: c-2
    name: 西庄桥头
    village: 西庄
    lon: 115.895
    lat: 38.405
    main: rtsp://192.0.2.2/main
    sub: rtsp://192.0.2.2/sub
"""

ROLES = """\
"patroller": {"person_id": "10000000001", "name": "甲"},
"leader": {"person_id": "10000000002", "name": "乙"},
"supervisor": {"person_id": "10000000003", "name": "丙"},
"police_officer": {"person_id": "10000000004", "name": "丁"},
"volunteer": {"person_id": "10000000005", "name": "戊"}"""

GRIDS = f"""\
{{"type": "FeatureCollection", "features": [
{{"type": "Feature", "properties": {{"grid_id": "g-1", "name": "东庄一", "village": "东庄", "roles": {{
{ROLES}}}}},
"geometry": {{"type": "Polygon", "coordinates": [
[[115.90, 38.40], [115.91, 38.40], [115.91, 38.41], [115.90, 38.41], [115.90, 38.40]]]}}}},
{{"type": "Feature", "properties": {{"grid_id": "g-2", "name": "西庄一", "village": "西庄", "roles": {{
{ROLES}}}}},
"geometry": {{"type": "Polygon", "coordinates": [
[[115.89, 38.40], [115.90, 38.40], [115.90, 38.41], [115.89, 38.41], [115.89, 38.40]]]}}}}
]}}
"""

Check = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """Runs the command in Chinese on the small town with one text replaced in either file; exit code and lines."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRIDWATCH_LANG", "zh")
    for name in ("GRIDWATCH_STREAMS", "GRIDWATCH_GRIDS"):
        monkeypatch.delenv(name, raising=False)

    def run(
        streams: tuple[str, str] = ("", ""), grids: tuple[str, str] = ("", ""), *arguments: str
    ) -> tuple[int, list[str]]:
        for name, text, (old, new) in (("streams.yaml", STREAMS, streams), ("grids.geojson", GRIDS, grids)):
            assert old in text
            (tmp_path / name).write_text(text.replace(old, new, 1) if old else text, encoding="utf-8")
        result = click.testing.CliRunner().invoke(command, list(arguments), catch_exceptions=False)
        assert "geheim" not in result.output
        return result.exit_code, result.output.splitlines()

    return run


def test_a_right_town_is_fine(check: Check) -> None:
    assert check() == (0, ["没有问题：2 个摄像头、2 个网格。"])


def test_unknown_key(check: Check) -> None:
    code, lines = check(("heading_deg: 90", "heeding_deg: 90"))
    assert code == 1
    assert lines[0] == (
        "streams.yaml:8: 错误 摄像头 c-1：未知的键“heeding_deg”，是不是“heading_deg”？"
        "请改正拼写或删去这一行。 [file.unknown_key_close]"
    )
    assert lines[-1] == "1 个错误，0 个警告；可用的有 1 个摄像头、2 个网格。"


def test_duplicate_camera_id(check: Check) -> None:
    code, lines = check(("id: c-2", "id: c-1"))
    assert code == 1
    assert lines[0].startswith("streams.yaml:14: 错误 摄像头 c-1：这个编号在第 3 行已经用过")


def test_bad_url(check: Check) -> None:
    code, lines = check(("main: rtsp://192.0.2.2/main", "main: http://root:geheim@192.0.2.2/main"))
    assert code == 1
    assert lines[0].startswith(
        "streams.yaml:19: 错误 摄像头 c-2：“main”的地址 http://***@192.0.2.2/main 不是以 rtsp://"
    )


def test_grid_that_crosses_itself(check: Check) -> None:
    code, lines = check(grids=("[115.91, 38.40], [115.91, 38.41]", "[115.91, 38.41], [115.91, 38.40]"))
    assert code == 1
    assert re.match(r"grids.geojson:8: 错误 网格 g-1：多边形自相交（约在 115\.905 38\.405 处", lines[0])
    assert lines[-1] == "网格改好之前，没有检查摄像头在哪个网格里。"


def test_zone_that_crosses_itself(check: Check) -> None:
    code, lines = check(("[0.9, 0.1], [0.9, 0.9]", "[0.9, 0.9], [0.9, 0.1]"))
    assert code == 1
    assert lines[0].startswith("streams.yaml:11: 错误 摄像头 c-1：“zones[0].polygon”的多边形自相交（约在 0.5 0.5 处）")


def test_overlapping_grids(check: Check) -> None:
    code, lines = check(grids=("[[115.89, 38.40], [115.90, 38.40]", "[[115.89, 38.40], [115.904, 38.40]"))
    assert code == 1
    assert lines[0].startswith("grids.geojson:10: 错误 网格 g-2：与网格 g-1（第 2 行）重叠约 ")
    area_m2 = int(re.search(r"重叠约 (\d+) 平方米", lines[0])[1])  # type: ignore[index]
    assert area_m2 == pytest.approx(349 * 1112 / 2, rel=0.01)  # a triangle


def test_camera_in_no_grid(check: Check) -> None:
    code, lines = check(("lon: 115.895", "lon: 115.88"))
    assert code == 1
    assert lines[0].startswith("streams.yaml:14: 错误 摄像头 c-2：位置 115.88, 38.405 不在任何网格里")
    assert "最近的网格是 g-2" in lines[0]


def test_longitude_and_latitude_swapped(check: Check) -> None:
    code, lines = check(("lon: 115.895\n    lat: 38.405", "lon: 38.405\n    lat: 115.895"))
    assert code == 1
    assert lines[0].startswith(
        "streams.yaml:18: 错误 摄像头 c-2：“lat”是 115.895，纬度只能在 -90 到 90 之间。是不是与 lon 写反了"
    )


def test_grid_in_metres(check: Check) -> None:
    code, lines = check(grids=("[115.91, 38.40], [115.91, 38.41]", "[578123.5, 38.40], [115.91, 38.41]"))
    assert code == 1
    assert lines[0].startswith("grids.geojson:9: 错误 网格 g-1：“geometry.coordinates[0][1][0]”是 578123.5，不是经纬度")


def test_camera_of_a_village_without_grids(check: Check) -> None:
    code, lines = check(("village: 西庄\n    lon: 115.895", "village: 南庄\n    lon: 115.88"))
    assert code == 1
    assert "也没有网格属于村庄“南庄”" in lines[0]


def test_zone_outside_the_picture(check: Check) -> None:
    code, lines = check(("[0.9, 0.9]", "[1728, 972]"))
    assert code == 1
    assert lines[0].startswith("streams.yaml:11: 错误 摄像头 c-1：“zones[0].polygon[2][0]”的坐标是 1728，超出画面")


def test_missing_role_holder(check: Check) -> None:
    code, lines = check(grids=('"supervisor": {"person_id": "10000000003", "name": "丙"},\n', ""))
    assert code == 1
    assert lines[0].startswith("grids.geojson:2: 错误 网格 g-1：缺少角色“网格督导员”（supervisor）")


def test_rule_without_its_zone(check: Check) -> None:
    code, lines = check(("zone: gate", "zone: gat"))
    assert code == 1
    assert lines[0].startswith(
        "streams.yaml:13: 错误 摄像头 c-1：规则 r1 用到区域 gat，但这个摄像头没有它（现有：gate）"
    )


def test_bad_hours_and_unknown_class_are_told_together(check: Check) -> None:
    code, lines = check(
        ('classes: [person], active_hours: ["18:00-06:00"]', 'classes: [persons], active_hours: ["6pm"]')
    )
    assert code == 1
    assert [line.rpartition("[")[2] for line in lines[:2]] == ["file.not_one_of]", "rule.bad_hours]"]
    assert lines[1].startswith("streams.yaml:13: 错误 摄像头 c-1：“rules[0].active_hours[0]”的时段“6pm”写错了")


def test_person_id_that_no_topic_can_hold(check: Check) -> None:
    code, lines = check(grids=('"10000000004"', '"1000/+#"'))
    assert code == 1
    assert lines[0].startswith("grids.geojson:6: 错误 网格 g-1：“properties.roles.police_officer.person_id”的“1000/+#”")


def test_one_person_with_two_names(check: Check) -> None:
    code, lines = check(grids=('"name": "戊"', '"name": "己"'))
    assert code == 1
    assert lines[0].startswith("grids.geojson:15: 错误 网格 g-2：人员 10000000005 在这里叫“戊”，在第 7 行叫“己”")


def test_duplicate_grid_id(check: Check) -> None:
    code, lines = check(grids=('"g-2"', '"g-1"'))
    assert code == 1
    assert lines[0].startswith("grids.geojson:10: 错误 网格 g-1：这个编号在第 2 行的网格已经用过")


def test_ring_that_is_not_closed(check: Check) -> None:
    code, lines = check(grids=(", [115.90, 38.40]]]}", ", [115.90, 38.405]]]}"))
    assert code == 1
    assert lines[0].startswith("grids.geojson:9: 错误 网格 g-1：“geometry.coordinates[0]”的边界没有闭合")


def test_broken_yaml_and_broken_json(check: Check) -> None:
    code, lines = check(("name: 西庄桥头", 'name: "西庄桥头'), ('"grid_id": "g-2",', '"grid_id": "g-2"'))
    assert code == 1
    assert re.match(r"streams.yaml:\d+: 错误 YAML 语法错误", lines[0])
    assert lines[1].startswith("grids.geojson:10: 错误 第 ")


def test_duplicate_key(check: Check) -> None:
    code, lines = check(
        ("lat: 38.405\n    main", "lat: 38.405\n    lon: 1\n    main"), ('"name": "东庄一"', '"grid_id": "x"')
    )
    assert code == 1
    assert lines[0].startswith("streams.yaml:19: 错误 摄像头 c-2：键“lon”在同一层写了两次（第一次在第 17 行）")
    assert any(line.startswith("grids.geojson:2: 错误 网格 g-1：键“grid_id”在同一层写了两次") for line in lines)


def test_missing_variable(check: Check) -> None:
    code, lines = check(("geheim", "${GRIDWATCH_NO_SUCH_PASSWORD}"))
    assert code == 1
    assert lines[0].startswith(
        "streams.yaml:9: 错误 摄像头 c-1：“main”用到环境变量 GRIDWATCH_NO_SUCH_PASSWORD，但它没有设置"
    )


def test_other_village_is_a_warning(check: Check) -> None:
    code, lines = check(("village: 西庄", "village: 东庄"))
    assert code == 0
    assert lines[0].startswith("streams.yaml:14: 警告 摄像头 c-2：写的村庄是“东庄”，位置却在“西庄”的网格 g-2")


def test_gap_is_a_warning_and_either_winding_is_right(check: Check) -> None:
    ring = "[[115.90, 38.40], [115.91, 38.40], [115.91, 38.41], [115.90, 38.41], [115.90, 38.40]]"
    # The same square, clockwise, around a hole that nobody owns.
    turned = "[[115.90, 38.40], [115.90, 38.41], [115.91, 38.41], [115.91, 38.40], [115.90, 38.40]]"
    hole = "[[115.902, 38.402], [115.904, 38.402], [115.904, 38.404], [115.902, 38.404], [115.902, 38.402]]"
    assert check(grids=(ring, turned))[0] == 0
    code, lines = check(grids=(ring, f"{turned}, {hole}"))
    assert code == 0
    assert lines[0].startswith("grids.geojson:2: 警告 网格 g-1：旁边有约 ")


def test_missing_file_and_unknown_kind(check: Check, tmp_path: Path) -> None:
    code, lines = check(("", ""), ("", ""), "elsewhere.yaml")
    assert code == 1
    assert lines[0].startswith("elsewhere.yaml:1: 错误 文件不存在")


def test_json_for_programs(check: Check) -> None:
    code, lines = check(("geheim", "ge/heim"), ("", ""), "--json", "streams.yaml")
    report = json.loads("\n".join(lines))
    assert code == 1
    assert report["ok"] is False and report["grids"] is None and report["errors"] == 1
    [problem] = report["problems"]
    assert (problem["line"], problem["code"], problem["subject"]["id"]) == (9, "camera.bad_url.user", "c-1")
    assert set(problem["sentence"]) == {"zh", "en"}


def _run(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "GRIDWATCH_LANG": "en"}
    gridwatch = str(Path(sys.executable).with_name("gridwatch"))
    return subprocess.run(
        [gridwatch, "check", *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=60
    )


def test_the_real_command_on_the_committed_town() -> None:
    ran = _run()
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "Nothing wrong: 128 cameras and 162 grids.\n", "")


def test_the_real_command_on_a_wrong_call() -> None:
    ran = _run("README.md")
    assert ran.returncode == 1
    assert "It is not clear what README.md is." in ran.stderr
    assert "Traceback" not in ran.stderr
