"""`seqsched trace fetch | inspect | generate | convert`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

import traces
from traces import arrivals, datasets, inspection
from traces.errors import InputError
from traces.loading import sources_help
from traces.slo_classes import HELP as SLO_CLASSES_HELP
from traces.slo_classes import parse_classes, with_slo_classes
from traces.synthetic import GENERATORS
from traces.synthetic import generate as draw

from ..scenario.scenario import stream
from ..scenario.settings import DEFAULT_TRACE
from . import show
from .options import Rate
from .tokenizers import encoder

SourceArgument = Annotated[str, Parameter(help=sources_help())]
SloClasses = Annotated[str | None, Parameter(help=SLO_CLASSES_HELP)]
GeneratorArgument = Annotated[str, Parameter(help=f"Generator {GENERATORS.help('generators')}")]


def fetch(*names: str) -> None:
    """Download public datasets, checked by SHA-256; copies that are already at hand are only checked.

    Parameters
    ----------
    names
        Datasets, or none to list them.
    """
    from rich.table import Table

    if names:
        for name in names:
            print(datasets.fetch(name))
        return
    table = Table()
    for heading in ("dataset", "source", "licence"):
        table.add_column(heading, overflow="fold")
    for name, dataset in datasets.DATASETS.items():
        table.add_row(name, dataset.url, dataset.licence)
    show.console().print(table)


def inspect(
    source: SourceArgument,
    /,
    *,
    seed: int = 0,
    time_unit: str | None = None,
    num_prompts: int | None = None,
    out: Path | None = None,
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Distribution table of a trace, what was assumed in reading it and, with --out, its pictures.

    Parameters
    ----------
    seed
        Seed of what is drawn rather than read.
    time_unit
        Unit of the arrival times: s, ms, us or ns; default: told by the name of the column or by its values.
    num_prompts
        Look at the first N requests alone.
    out
        Draw lengths, arrival rate over time and burstiness into this PNG or SVG file and, where prompts begin
        alike, what caches of any size find again and what sessions look like.
    json_
        Print the single figures as one JSON object.
    """
    from rich.table import Table

    trace = traces.load(source, seed=seed, num_prompts=num_prompts, time_unit=time_unit)
    facts, frame = inspection.facts(trace), inspection.describe(trace)
    if out is not None:
        from plots import lengths
        from plots.style import save

        save(lengths.overview(trace), out)
        show.wrote([out])
    if json_:
        print(
            json.dumps({"trace": trace.name, **facts, "notes": list(trace.notes)}, indent=2, allow_nan=False)
        )
        return
    table = Table(title=f"{trace.name}: {len(trace):,} requests", title_justify="left")
    table.add_column("column")
    for heading in frame.columns:
        table.add_column(heading, justify="right")
    for name, row in frame.iterrows():
        table.add_row(str(name), *(f"{value:,.6g}" for value in row))
    console = show.console()
    console.print(table)
    for name, value in facts.items():
        form = "," if isinstance(value, int) else ",.6g"
        console.print(f"{name}: {'–' if value is None else format(value, form)}")
    for note in trace.notes:
        console.print(f"note: {note}")


def generate(
    spec: GeneratorArgument = DEFAULT_TRACE,
    /,
    *,
    out: Path,
    num_prompts: int | None = None,
    seed: int = 0,
    request_rate: Rate | None = None,
    burstiness: float = 1.0,
    slo_classes: SloClasses = None,
) -> None:
    """Write a synthetic trace.

    Parameters
    ----------
    out
        File to write: .csv, .jsonl or .parquet.
    num_prompts
        Number of requests.
    seed
        Seed of lengths and arrivals.
    request_rate
        Requests per second, also as 60/min; default: the times of the generator (sessions), or none.
    burstiness
        Shape of the gamma distribution of gaps; 1 is Poisson. Needs --request-rate.
    """
    if request_rate is None and burstiness != 1.0:
        raise InputError(f"burstiness: {burstiness:g} needs --request-rate: gaps are drawn with a rate alone")
    if slo_classes is not None:
        parse_classes(slo_classes)  # before anything is drawn
    trace = draw(spec, num_prompts, seed)
    if request_rate is not None:
        trace = arrivals.assign(
            trace, request_rate=request_rate, burstiness=burstiness, rng=stream(seed, "arrivals")
        )
    if slo_classes is not None:
        trace = with_slo_classes(trace, slo_classes, seed)
    traces.write(trace, out)
    show.wrote([out])


def convert(
    source: SourceArgument,
    out: Path,
    /,
    *,
    seed: int = 0,
    time_unit: str | None = None,
    max_new_tokens: int | None = None,
    tokenizer: str | None = None,
    slo_classes: SloClasses = None,
) -> None:
    """Read any known format and write CSV, JSONL or Parquet.

    Parameters
    ----------
    out
        File to write: .csv, .jsonl or .parquet.
    seed
        Seed of what is drawn rather than read.
    time_unit
        Unit of the arrival times: s, ms, us or ns; default: told by the name of the column or by its values.
    max_new_tokens
        Cap on output tokens.
    tokenizer
        Hugging Face tokenizer, a name or a folder, that counts the tokens of a text trace, and tells by them
        which prompts begin alike (needs seqsched[real]).
    """
    from traces.token_blocks import with_text_blocks

    encode = encoder(tokenizer)
    trace = traces.load(
        source,
        seed=seed,
        max_new_tokens=max_new_tokens,
        tokenizer=None if encode is None else lambda text: len(encode(text)),
        time_unit=time_unit,
    )
    if encode is not None:
        trace = with_text_blocks(trace, encode)
    if slo_classes is not None:
        trace = with_slo_classes(trace, slo_classes, seed)
    traces.write(trace, out)
    show.wrote([out])
