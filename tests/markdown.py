"""Parse the fenced blocks of the documentation, with the HTML comments that tell tests about them.

Right before a block, ``<!-- not run: REASON -->`` skips it, ``<!-- exits: 3 -->`` is the exit code
of its last command, ``<!-- needs: garminconnect -->`` is a required package, and
``<!-- terminal: NAME -->`` means that its last command keeps running. Anywhere,
``<!-- browser: … -->`` is what the reader does in a browser.
"""

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
COMMENT = re.compile(r"\s*<!-- ([\w ]+): (.+?) -->\s*")
FENCE = re.compile(r"(\s*)(```+)([\w{}-]*)\s*(.*)")
AT_ITS_END = " (at its end)"


@dataclass
class Block:
    """A fenced block.

    Args:
        page: path of the file from the repository's root.
        line: the line where the block starts.
        language: the first word of its info string.
        title: the file name in the info string, if any.
        text: the content.
        marks: the comments right before it, by their first words.
    """

    page: str
    line: int
    language: str
    title: str
    text: str
    marks: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> list[tuple[str, list[str]]]:
        """The commands after ``$``, each with its expected lines of output."""
        found: list[tuple[str, list[str]]] = []
        for line in self.text.replace("\\\n", " ").splitlines():
            if line.startswith("$ "):
                found.append((line[2:].strip(), []))
            elif found and line.strip():
                found[-1][1].append(line)
        return found

    def write_to(self, folder: Path) -> Path:
        """Create the file in the title, or append to it."""
        path = folder / self.title.removesuffix(AT_ITS_END)
        before = path.read_text() if self.title.endswith(AT_ITS_END) else ""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{before}\n{self.text}" if before else self.text)
        return path


@dataclass
class Direction:
    """Something that the reader does in a browser."""

    page: str
    line: int
    verb: str
    rest: str

    @property
    def fields(self) -> dict[str, str]:
        return dict(word.split("=", 1) for word in shlex.split(self.rest))


def steps(path: Path) -> list[Block | Direction]:
    """Return the blocks of a page and the directions between them, in order."""
    page = str(path.relative_to(ROOT))
    found: list[Block | Direction] = []
    marks: dict[str, str] = {}
    lines = iter(enumerate(path.read_text().splitlines(), 1))
    for number, line in lines:
        if comment := COMMENT.fullmatch(line):
            if comment[1] == "browser":
                verb, _, rest = comment[2].partition(" ")
                found.append(Direction(page, number, verb, rest))
            marks[comment[1]] = comment[2]
        elif fence := FENCE.fullmatch(line):
            indent, ticks, language, info = fence.groups()
            text = []
            for _, inside in lines:
                if inside.strip() == ticks:
                    break
                text.append(inside.removeprefix(indent))
            title = re.search(r'title="([^"]+)"', info)
            content = "\n".join(text) + "\n"
            if language.startswith("{"):  # Sphinx's own, such as {toctree}.
                continue
            found.append(Block(page, number, language, title[1] if title else "", content, marks))
            marks = {}
        else:
            marks = {}
    return found


def blocks(path: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    return [step for step in steps(path) if isinstance(step, Block)]
