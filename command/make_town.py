"""The synthetic town: writes streams.yaml and grids.geojson from a seed, the same bytes for the same seed.

An invented town of 32 villages, 162 grids and 128 cameras around Shangcun town (尚村镇), Suning county, Hebei: no real
village border, camera or person. Villages and grids are Voronoi cells; all borders are noded and snapped to a raster of
1e-6 degrees (0.1 m) before the grids are formed, so neighbours share their corners exactly, also where three meet.
Used by `scripts/make_town`; the two files are committed, and a test makes them again.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from shapely import MultiPoint, Point, Polygon, STRtree

from command.grids import ROLES

SEED = 20_260_101
VILLAGES = 32
GRIDS = 162
CAMERAS = 128

_CENTRE = (115.972, 38.462)  # Shangcun town, roughly
_RADIUS_M = 5200.0
_RASTER_DEG = 1e-6
_M_PER_LAT = 111_195.0
_M_PER_LON = _M_PER_LAT * math.cos(math.radians(_CENTRE[1]))

# Plausible and invented; the seed's shuffle decides which lies where.
_VILLAGE_NAMES = """
东柳庄 西柳庄 前张务 后张务 大槐店 小槐店 李家营 赵家营 北石桥 南石桥 杏树屯 枣林屯 河湾村
高台村 双井村 三官庙 王家堡 刘家堡 东马坊 西马坊 上塘村 下塘村 孟家庄 崔家庄 青龙湾 白沙口
新立屯 永丰村 太平庄 兴隆庄 南皮坊 北渠头
""".split()  # noqa: SIM905 - a list of words
_SPOTS = """
村口 主街 小学门口 卫生室 文化广场 桥头 村委会门口 超市门口 养老院门口 公交站 集市东口 水塘边
变压器旁 幼儿园门口 打麦场 皮毛市场
""".split()  # noqa: SIM905 - a list of words
_SURNAMES = "王李张刘陈杨赵黄周吴徐孙马胡朱郭何高林郑"
_GIVEN = """
建国 秀英 志强 桂兰 海涛 丽华 永刚 玉珍 文军 春梅 立新 淑芬 国庆 小燕 振华 凤英 晓东
红霞 长青 雪梅
""".split()  # noqa: SIM905 - a list of words


@dataclass(frozen=True)
class TownGrid:
    """A grid before it is written."""

    grid_id: str
    name: str
    village: str
    polygon: Polygon  # degrees, corners on the raster


def make_town(seed: int = SEED, cameras: int = CAMERAS) -> tuple[str, str]:
    """The texts of streams.yaml and grids.geojson."""
    dice = random.Random(seed)  # noqa: S311 - a town, no secret
    grids = make_grids(dice)
    return _streams_yaml(dice, grids, seed, cameras), _grids_geojson(dice, grids)


def make_grids(dice: random.Random) -> list[TownGrid]:
    """The tiling, by village from north-west to south-east."""
    town = _outline(dice)
    villages = _cells(dice, town, VILLAGES)
    villages.sort(key=lambda cell: (round(-cell.centroid.y / 2000), cell.centroid.x))
    names = list(_VILLAGE_NAMES)
    dice.shuffle(names)
    cells: list[tuple[str, Polygon]] = []
    for name, village, count in zip(names, villages, _shares([v.area for v in villages], GRIDS), strict=True):
        parts = _cells(dice, village, count)
        parts.sort(key=lambda cell: (-cell.centroid.y, cell.centroid.x))
        cells += [(name, part) for part in parts]
    faces = _on_raster([cell for _, cell in cells])
    number: dict[str, int] = {}
    grids = []
    for i, ((village_name, _), face) in enumerate(zip(cells, faces, strict=True), start=1):
        number[village_name] = number.get(village_name, 0) + 1
        grids.append(TownGrid(f"g-{i:03}", f"{village_name}第{_chinese(number[village_name])}网格", village_name, face))
    return grids


def _outline(dice: random.Random) -> Polygon:
    """The town's border in metres around its middle: a circle with three slow waves and some noise."""
    waves = [(k, dice.uniform(0.03, 0.09), dice.uniform(0, math.tau)) for k in (2, 3, 5)]
    corners = []
    for step in range(48):
        angle = step / 48 * math.tau
        radius = (
            1 + sum(height * math.sin(k * angle + phase) for k, height, phase in waves) + dice.uniform(-0.015, 0.015)
        )
        corners.append((_RADIUS_M * radius * math.cos(angle), _RADIUS_M * radius * math.sin(angle) * 0.9))
    return Polygon(corners)


def _cells(dice: random.Random, area: Polygon, count: int) -> list[Polygon]:
    """`count` Voronoi cells of about the same size (Lloyd's relaxation), clipped to `area`."""
    west, south, east, north = area.bounds
    seeds: list[Point] = []
    while len(seeds) < count:
        point = Point(dice.uniform(west, east), dice.uniform(south, north))
        if area.contains(point):
            seeds.append(point)
    for _ in range(6):
        seeds = [cell.centroid for cell in _voronoi(seeds, area)]
    cells = _voronoi(seeds, area)
    if len(cells) != count or any(cell.geom_type != "Polygon" for cell in cells):
        return _cells(dice, area, count)  # a cell fell in two at a bend of the border: throw again
    return cells


def _voronoi(seeds: list[Point], area: Polygon) -> list[Polygon]:
    cells = shapely.get_parts(shapely.voronoi_polygons(MultiPoint(seeds), extend_to=area, ordered=True))
    return [shapely.intersection(cell, area) for cell in cells]


def _shares(areas: list[float], total: int) -> list[int]:
    """`total` grids over the villages by area, three at least, largest remainders first."""
    wanted = [area / sum(areas) * total for area in areas]
    counts = [max(3, math.floor(share)) for share in wanted]
    order = sorted(range(len(areas)), key=lambda i: counts[i] - wanted[i])
    for i in order * 9:
        if sum(counts) == total:
            break
        counts[i] += 1 if sum(counts) < total else -1
    return counts


def _on_raster(cells: list[Polygon]) -> list[Polygon]:
    """The cells with all corners on the raster and all borders shared exactly, in the same order."""
    scale = np.array([_M_PER_LON, _M_PER_LAT])
    in_degrees = [shapely.transform(cell, lambda metres: metres / scale + _CENTRE) for cell in cells]
    lines = shapely.union_all([cell.exterior for cell in in_degrees], grid_size=_RASTER_DEG)
    faces = [
        # 1e-6 is no binary fraction: round to the doubles that six printed digits give back.
        shapely.transform(face, lambda degrees: np.round(degrees, 6))
        for face in shapely.get_parts(shapely.polygonize([lines])).tolist()
    ]
    if len(faces) != len(cells):
        raise ValueError(f"{len(cells)} cells gave {len(faces)} faces")
    tree = STRtree(faces)
    found = [int(tree.query(cell.representative_point(), predicate="within")[0]) for cell in in_degrees]
    if len(set(found)) != len(cells):
        raise ValueError("two cells fell into one face")
    return [shapely.normalize(faces[i]) for i in found]


def _chinese(number: int) -> str:
    return "零一二三四五六七八九十"[number]


def _grids_geojson(dice: random.Random, grids: list[TownGrid]) -> str:
    """One feature a line, so that problems point at the grid and differences are readable."""
    person = iter(range(1, 10**6))
    by_village: dict[str, dict[str, str]] = {}
    by_beat: dict[int, dict[str, str]] = {}

    def holder() -> dict[str, str]:
        # 100… is no Chinese mobile prefix: nobody can be called by mistake.
        name = dice.choice(_SURNAMES) + dice.choice(_GIVEN)
        return {"person_id": f"100{next(person):08}", "name": name}

    lines = []
    for grid in grids:
        village_number = len(by_village) if grid.village not in by_village else list(by_village).index(grid.village)
        roles: dict[str, dict[str, str]] = {}
        for role in ROLES:
            if role == "supervisor":  # one a village
                roles[role] = by_village[grid.village] = by_village.get(grid.village) or holder()
            elif role == "police_officer":  # one for four villages
                beat = village_number // 4
                roles[role] = by_beat[beat] = by_beat.get(beat) or holder()
            else:
                roles[role] = holder()
        ring = [[round(x, 6), round(y, 6)] for x, y in grid.polygon.exterior.coords]
        ring.reverse()  # normalised rings run clockwise, RFC 7946 wants the outer one the other way
        feature = {
            "type": "Feature",
            "properties": {"grid_id": grid.grid_id, "name": grid.name, "village": grid.village, "roles": roles},
            "geometry": {"type": "Polygon", "coordinates": [ring]},
        }
        lines.append(json.dumps(feature, ensure_ascii=False))
    head = '{"type": "FeatureCollection", "name": "尚村镇网格（虚构）", "synthetic": true, "features": [\n'
    return head + ",\n".join(lines) + "\n]}\n"


def _streams_yaml(dice: random.Random, grids: list[TownGrid], seed: int, count: int) -> str:
    villages: dict[str, list[TownGrid]] = {}
    for grid in grids:
        villages.setdefault(grid.village, []).append(grid)
    spots = {village: dice.sample(_SPOTS, len(_SPOTS)) for village in villages}
    entries: list[str] = []
    each = math.ceil(count / len(villages))
    for village, members in villages.items():
        for k in range(each):
            if len(entries) < count:
                spot = spots[village][k % len(_SPOTS)] + (str(k // len(_SPOTS) + 1) if k >= len(_SPOTS) else "")
                entries.append(_camera(dice, len(entries) + 1, f"{village}{spot}", members[k % len(members)]))
    return _STREAMS_HEAD.format(seed=seed) + "".join(entries)


def _camera(dice: random.Random, number: int, name: str, grid: TownGrid) -> str:
    camera_id = f"c-{number:03}"
    lon, lat = _place_in(dice, grid.polygon)
    jitter = [round(dice.uniform(-0.02, 0.02), 3) for _ in range(4)]
    passage = [
        (round(0.37 + jitter[0], 3), 0.35),
        (round(0.73 + jitter[1], 3), 0.35),
        (round(0.75 + jitter[2], 3), 0.98),
        (round(0.35 + jitter[3], 3), 0.98),
    ]
    zones = [("entrance", dice.choice(("入口", "通道")), passage)]
    rules = [("intrusion", "entrance", "person", "00:00-24:00", 3)]
    if dice.random() < 0.3:
        zones.append(("yard", "料场", [(0.02, 0.12), (0.26, 0.12), (0.26, 0.4), (0.02, 0.44)]))
        rules.append(("yard-night", "yard", "person, truck", "22:00-05:30", 2))
    lines = [
        f"\n  - id: {camera_id}",
        f"name: {name}",
        f"village: {grid.village}",
        f"lon: {lon:.6f}",
        f"lat: {lat:.6f}",
        f"heading_deg: {dice.randrange(0, 360, 5)}",
        f"main: rtsp://127.0.0.1:8554/{camera_id}/main",
        f"sub: rtsp://127.0.0.1:8554/{camera_id}/sub",
        "zones:",
    ]
    for zone_id, zone_name, corners in zones:
        polygon = ", ".join(f"[{x}, {y}]" for x, y in corners)
        lines.append(f"  - {{id: {zone_id}, name: {zone_name}, polygon: [{polygon}]}}")
    lines.append("rules:")
    for rule_id, zone_id, classes, hours, priority in rules:
        lines.append(
            f"  - {{id: {rule_id}, kind: zone_intrusion, zone: {zone_id}, classes: [{classes}], min_score: 0.5, "
            f'active_hours: ["{hours}"], priority: {priority}, cooldown_s: 60}}'
        )
    return "\n    ".join(lines) + "\n"


def _place_in(dice: random.Random, polygon: Polygon) -> tuple[float, float]:
    """A point well inside: off the border, so that the camera's grid is never a matter of rounding."""
    inner = polygon.buffer(-60 / _M_PER_LAT)
    inner = inner if not inner.is_empty else polygon
    west, south, east, north = inner.bounds
    while True:
        point = Point(round(dice.uniform(west, east), 6), round(dice.uniform(south, north), 6))
        if inner.contains(point):
            return point.x, point.y


_STREAMS_HEAD = """\
# yaml-language-server: $schema=docs/ref/streams.schema.json
# 虚构的镇：村庄、位置和地址都是编造的，由 scripts/make_town 生成（种子 {seed}）。说明见 docs/ref/streams.md。
# A synthetic town: villages, places and addresses are invented, written by scripts/make_town (seed {seed}).
# Every key is explained in docs/ref/streams.md; after editing run `gridwatch check`.
synthetic: true
timezone: Asia/Shanghai
cameras:
"""


def main() -> None:
    """Write the two files into a folder."""
    parser = argparse.ArgumentParser(description="Write the synthetic town: streams.yaml and grids.geojson.")
    parser.add_argument("--seed", type=int, default=SEED, help="same seed, same bytes (default: %(default)s)")
    parser.add_argument("--cameras", type=int, default=CAMERAS, help="how many cameras (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path(), help="folder to write to (default: the current one)")
    options = parser.parse_args()
    streams, grids = make_town(options.seed, options.cameras)
    options.out.mkdir(parents=True, exist_ok=True)
    for name, text in (("streams.yaml", streams), ("grids.geojson", grids)):
        path = options.out / name
        path.write_text(text, encoding="utf-8")
        print(f"{path}: {len(text.encode()):,} bytes")


if __name__ == "__main__":
    main()
