"""What a page of documentation shows, and what holds it.

A fenced block or a table after a comment is held by what the comment says:

- `<!-- output: COMMAND -->`: what the command prints (`seqsched …` or `python SCRIPT`);
- `<!-- output with data: COMMAND -->`: the same, where SEQSCHED_DATA names a folder with the public data;
- `<!-- on stderr: COMMAND -->`, `<!-- on stderr with data: COMMAND -->`: what it says there;
- `<!-- file: NAME -->`: a file in the folder that the page's commands and code run in;
- `<!-- not run: REASON -->`: code that no test runs.

Every other `python` block is run, and the plain block that follows one is what it prints.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PYTHON = re.compile(
    r"(?:<!-- (?P<note>file|not run)[^>]*-->\n+)?```python\n(?P<code>.*?)```(?:\n\n```\n(?P<shown>.*?)```)?",
    re.DOTALL,
)


@dataclass(frozen=True)
class Output:
    """Text that a command is said to print, on standard output or on standard error."""

    command: str
    needs_data: bool
    shown: str
    is_on_stderr: bool = False


@dataclass(frozen=True)
class Code:
    """Python that a page shows, and what it is said to print (None: nothing is said)."""

    text: str
    shown: str | None


@dataclass(frozen=True)
class Page:
    """One Markdown file."""

    path: Path

    @cached_property
    def text(self) -> str:
        """All of it."""
        return self.path.read_text(encoding="utf-8")

    @property
    def name(self) -> str:
        """The path below the root of the project."""
        return str(self.path.relative_to(ROOT))

    @cached_property
    def outputs(self) -> list[Output]:
        """The outputs that are held, in order."""
        found = re.findall(
            r"<!-- (output|on stderr)( with data)?: (.+?) -->\n+(```\n.*?\n```|.*?)(?=\n\n|\Z)",
            self.text,
            re.DOTALL,
        )
        return [
            Output(command, bool(data), shown, stream == "on stderr")
            for stream, data, command, shown in found
        ]

    @cached_property
    def code(self) -> list[Code]:
        """The Python that is run, in order."""
        found = [match for match in PYTHON.finditer(self.text) if not match["note"]]
        return [Code(match["code"], match["shown"]) for match in found]

    @cached_property
    def files(self) -> dict[str, str]:
        """The files that the page shows: name -> content."""
        return dict(re.findall(r"<!-- file: (\S+) -->\n+```\w+\n(.*?)```", self.text, re.DOTALL))

    @cached_property
    def shell(self) -> list[list[str]]:
        """The commands of all `sh` blocks, without comments, as words."""
        blocks = "\n".join(re.findall(r"```sh\n(.*?)```", self.text, re.DOTALL)).replace("\\\n", " ")
        split = (shlex.split(line, comments=True) for line in blocks.splitlines())
        return [words[1:] if words[0] == "time" else words for words in split if words]

    @cached_property
    def links(self) -> list[str]:
        """Targets of links and pictures that are no web addresses."""
        return [t for t in re.findall(r"\]\(([^)\s]+)\)", self.text) if not t.startswith("http")]

    @cached_property
    def anchors(self) -> set[str]:
        """What a link to a heading of this page may name, as GitHub makes it."""
        headings = re.findall(r"^#+ (.+)$", self.text, re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
