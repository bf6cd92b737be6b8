"""Report and card: whole, self-contained, harmless with hostile words, and never in the way."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from edgekit.artifact import Artifact, Manifest, Source, finish
from edgekit.certificate import Certificate, Generation, Greedy, StageReport
from edgekit.workflows.certify import pictures
from edgekit.workflows.certify.card import MARK
from edgekit.workflows.certify.documents import write
from edgekit.workflows.certify.weights import Likeness, TensorReport
from edgekit.workflows.check import Checked

HOSTILE = "</title><script>alert(1)</script> | [x](javascript:1) `\n# no"
KIND = {"positions": 1022.0, "kld_mean": 0.0625, "kld_low": 0.05, "kld_high": 0.08,
        "kld_p99": 0.5, "top1_agreement": 0.875, "perplexity": 20.0}  # fmt: skip
CERTIFICATE = Certificate(
    checkpoint_digest="d", text_sha256="t", positions=10, token_ids_equal=True, kld_mean=0.0625,
    kld_standard_error=0.01, kld_p99=0.5, top1_agreement=0.9, perplexity=20.0,
    perplexity_source=19.0, noise_floor=1e-9, by_kind={"prose": KIND, HOSTILE: KIND},
    kld_low=0.05, kld_high=0.08, stages=[StageReport("source", True, "sound"),
    StageReport("pruned", None, "gone"), StageReport("exported", False, HOSTILE),
    StageReport("loaded", True, "same", {"kld_mean": 0.001})],
    greedy=Greedy(48, [3, 48], 25.5), generation=Generation(36, 17, 16, 25),
)  # fmt: skip
TENSORS = [
    TensorReport("model.embed_tokens.weight", 10, "q8_0", 8, Likeness(0.01, 1.0, 0.0), ""),
    TensorReport(f"model.layers.3.{HOSTILE}.weight", 10, "q4_k", 4, Likeness(1.4, 0, 0), "is bad"),
]


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    (tmp_path / "model.gguf").write_bytes(b"weights")
    source = Source("tiny", "digest", "Apache-2.0", {"scheme": HOSTILE}, {"edgekit": "0.1.0"})
    finish(tmp_path, Manifest(
        name=HOSTILE, format="gguf", scheme="q8_0", entry="model.gguf", architecture="llama",
        parameters=100, vocabulary_size=640, context_length=512, kv_bytes_per_token=1024,
        bits_per_weight=8.5, bos_token_id=None, add_bos_token=False, stop_token_ids=[2],
        chat_template=None, files=[], source=source,
    ))  # fmt: skip
    return Artifact.open(tmp_path)


def checked(artifact: Artifact, certificate: Certificate | None = CERTIFICATE) -> Checked:
    return Checked(artifact, CERTIFICATE.stages, certificate, TENSORS)


class Elements(HTMLParser):
    """Collects the elements of a page and what they would load."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.loads += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "data")]


def test_the_page_loads_nothing_and_runs_nothing(artifact: Artifact) -> None:
    write(checked(artifact))
    page = (artifact.path / "report.html").read_text()
    elements = Elements()
    elements.feed(page)
    assert elements.names.count("svg") == 3
    assert not {"script", "link", "iframe", "img"} & set(elements.names)
    assert elements.loads == []
    assert "url(" not in page
    assert "prefers-color-scheme:dark" in page


def test_it_says_what_was_found(artifact: Artifact) -> None:
    write(checked(artifact))
    for name in ("report.html", "report.md", "README.md"):
        text = (artifact.path / name).read_text()
        for words in ("broke at the stage", "0.0625", "0.0500 to 0.0800", "16 of 36", "87.5%"):
            assert words in text, (name, words)


def test_markdown_keeps_its_tables_whole(artifact: Artifact) -> None:
    write(checked(artifact))
    for name in ("report.md", "README.md"):
        text = (artifact.path / name).read_text()
        assert "<script" not in text
        tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
        assert tables
        for table in tables:
            widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
            assert len(widths) == 1, table


def test_pictures_are_well_formed_and_stand_alone(artifact: Artifact) -> None:
    write(checked(artifact))
    files = sorted(artifact.path.glob("*.svg"))
    assert len(files) == 3
    for file in files:
        root = ElementTree.fromstring(file.read_text())
        assert root.tag.endswith("svg")
        assert "fill:" in "".join(root.itertext())


def test_bars_are_as_long_as_their_figures() -> None:
    figures = {"a": KIND | {"kld_mean": 0.04}, "b": KIND | {"kld_mean": 0.08}}
    widths = [float(w) for w in re.findall(r'rect class="ek-bar"[^>]* width="([\d.]+)"',
                                           pictures.kinds(figures))]  # fmt: skip
    assert widths[1] == pytest.approx(2 * widths[0], rel=0.01)


def test_the_artifact_opens_and_verifies_with_or_without_them(artifact: Artifact) -> None:
    paths = write(checked(artifact))
    Artifact.open(artifact.path).verify()
    for path in paths:
        path.unlink()
    Artifact.open(artifact.path).verify()


def test_a_card_of_ones_own_stays(artifact: Artifact) -> None:
    card = artifact.path / "README.md"
    write(checked(artifact))
    assert MARK in card.read_text()
    card.write_text("My own words.")
    assert card not in write(checked(artifact))
    assert card.read_text() == "My own words."


def test_what_was_not_measured_is_not_reported(artifact: Artifact) -> None:
    assert write(checked(artifact, None)) == []
    assert not (artifact.path / "report.html").exists()


def test_an_older_certificate_has_no_intervals_and_is_drawn(artifact: Artifact) -> None:
    older = {"positions": 10.0, "kld_mean": 0.1, "top1_agreement": 0.9}
    certificate = replace(CERTIFICATE, by_kind={"prose": older}, kld_low=None, kld_high=None)
    write(checked(artifact, replace(certificate, greedy=None, generation=None)))
    assert "0.1000" in (artifact.path / "report.md").read_text()
