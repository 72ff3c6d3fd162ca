from __future__ import annotations

from real.lengths.progress import SILENCE_S, Progress


def test_long_work_says_how_far_it_is_and_short_work_says_nothing() -> None:
    now, lines = [0.0], list[str]()
    progress = Progress(lines.append, "visits", 40, clock=lambda: now[0])
    for step in range(40):
        now[0] = 0.7 * SILENCE_S * (step + 1)
        progress.advance()
    assert len(lines) == 20
    assert lines[0] == "visits: 2 of 40 after 14 s, about 266 s left"
    assert lines[-1].startswith("visits: 40 of 40 after 280 s, about 0 s")
    quick = Progress(lines.append, "visits", 3, clock=lambda: 0.0)
    quick.advance(3)
    assert len(lines) == 20
