"""The ingest bench's figures as tables for people; the same text stands in docs/design/ingest.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click


def _number(value: object, form: str = ".2f") -> str:
    return "-" if value is None else format(value, form)


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    for row in [head, ["-" * width for width in widths], *rows]:
        click.echo("| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |")
    click.echo()


def print_table(figures: dict[str, Any]) -> None:
    """Everything that was measured; rows that were not run are left out."""
    details = figures["details"]
    machine = details["machine"]
    click.echo(
        f"{machine['cores']} cores, {machine['processor']}; {figures['cameras']} cameras, {figures['seconds']:g} s\n"
    )
    _product(figures)
    _peers(figures)
    if figures["curve"]:
        points = figures["curve"]
        _rows(
            ["cameras", "ingest + recording", "a camera (mcore)", "whole product", "workers' MB"],
            [
                [
                    str(point["cameras"]),
                    _number(point["cores"]),
                    _number(1000 * point["cores"] / point["cameras"]),
                    _number(point["total"]),
                    _number(point["rss_mb"], ".0f"),
                ]
                for point in points
            ],
        )
    for note in details["notes"]:
        click.echo(f"- {note}")
    footage = details["footage"]
    for bad in (footage or {}).get("bad", [])[:10]:
        click.echo(f"- bad segment: {bad}")


def _product(figures: dict[str, Any]) -> None:
    cores, details = figures["cores"], figures["details"]
    if cores["total"] is not None:
        rows = [
            [name.replace("_", " + "), _number(cores[name])] for name in ("ingest_recording", "analysis", "command")
        ]
        _rows(["the whole product", "cores"], [*rows, ["total", _number(cores["total"])]])
        _rows(
            ["process", "cores", "RSS MB", "files", "threads"],
            [
                [name, _number(part["cores"]), _number(part["rss_mb"], ".0f"), str(part["fds"]), str(part["threads"])]
                for name, part in sorted(details["parts"].items())
            ]
            + [["(simulated cameras)", _number(cores["simulator"]), "", "", ""]],
        )
    if figures["frames_expected"] is not None:
        click.echo(
            f"frames expected {figures['frames_expected']}, received {figures['frames_received']}, "
            f"lost {figures['frames_lost']}, doubled {details['footage']['doubled']}, "
            f"swapped {details['footage']['swapped']}; "
            f"segments {figures['segments']}, decoded {details['footage']['decoded_segments']}, "
            f"bad {figures['segments_bad']}\n"
        )
    quiet = figures["quiet_cores"]
    if any(value is not None for value in quiet.values()):
        names = {"sub_4s": "sub, every 4 s", "main_6s": "main, every 6 s", "main_4s": "main, every 4 s"}
        _rows(
            ["nobody watching; a look a camera by", "whole product, cores"],
            [[text, _number(quiet[name])] for name, text in names.items()],
        )


def _peers(figures: dict[str, Any]) -> None:
    peers = {name: peer for name, peer in figures["peers"].items() if peer is not None}
    rows = []
    if figures["floor_cores"] is not None:
        per_128 = figures["floor_cores"] * 128 / figures["cameras"]
        rows.append(
            [
                "floor: C, reads only",
                str(figures["cameras"]),
                "1",
                _number(figures["floor_cores"]),
                _number(per_128),
                "",
            ]
        )
    for name, peer in peers.items():
        rows.append(
            [
                name,
                str(peer["cameras"]),
                str(peer["processes"]),
                _number(peer["cores"]),
                _number(peer["cores_per_128"]),
                "yes" if peer["kept_up"] else f"no ({peer['share_received']:.0%})",
            ]
        )
    if rows:
        _rows(["on the same input", "cameras", "processes", "cores", "cores for 128", "keeps up"], rows)
    for name, ratio in figures["details"]["ratios"].items():
        click.echo(f"{name.replace('_', ' ')}: {ratio:.1f} times")
    if figures["details"]["ratios"]:
        click.echo()
