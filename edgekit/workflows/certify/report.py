"""The report of a check, for people: one document as HTML that loads nothing, and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from edgekit.artifact import Manifest
from edgekit.certificate import Certificate, StageReport
from edgekit.units import format_bytes
from edgekit.workflows.certify import pictures
from edgekit.workflows.certify.weights import TensorReport

SIGNS = {True: "ok", False: "FAULT", None: "not judged"}
CSS = """
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:760px;margin:2rem auto;padding:0 1rem;
background:#fff;color:#1b1f24}
h1{font-size:1.5rem;margin-bottom:.2rem;overflow-wrap:anywhere}h2{font-size:1.1rem;margin-top:2rem}
p.verdict{margin-top:0;font-weight:600}.good{color:#1a7f37}.bad{color:#c62828}.none{color:#59636e}
table{border-collapse:collapse;width:100%;font-size:.92rem}
th,td{text-align:left;padding:.3rem .6rem .3rem 0;border-bottom:1px solid #d5dae0;
vertical-align:top}
th,td.sign{white-space:nowrap}td{overflow-wrap:anywhere}
td.number,th.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
svg{max-width:100%;height:auto}p.note{color:#59636e;font-size:.9rem}
@media (prefers-color-scheme:dark){body{background:#14181d;color:#e6e9ed}
.good{color:#57c26f}.bad{color:#ff7b72}.none,p.note{color:#9aa4af}th,td{border-color:#39414a}}
"""
HOW = (
    "Divergence is KL(checkpoint || artifact): the checkpoint in float32 in torch, the artifact in "
    "its own engine. Intervals hold the middle 95 % of a block bootstrap over consecutive "
    "positions. The kind \u201clong\u201d is measured on the second half of one long window and is "
    "not part of the mean. Each stage is judged by its own figure: \u201cquantised\u201d compares "
    "torch on the stored weights with the checkpoint, \u201cloaded\u201d the engine with torch on "
    "the stored weights."
)
KIND_HEADS = ("kind of text", "positions", "KL divergence", "95 % interval", "p99", "top-1")


def verdict(certificate: Certificate) -> str:
    """Return in one sentence whether the conversion is whole."""
    broken = next((r for r in certificate.stages if r.ok is False), None)
    if broken is not None:
        return f"The conversion broke at the stage \u201c{broken.stage}\u201d."
    return "No stage of the conversion is broken."


def facts(manifest: Manifest, certificate: Certificate) -> list[tuple[str, str]]:
    """Return what a reader asks first: names and values."""
    c = certificate
    low, high = c.kld_low or c.kld_mean, c.kld_high or c.kld_mean
    rows = [
        ("made from", manifest.source.checkpoint),
        ("licence", manifest.source.licence),
        ("format and scheme", f"{manifest.format} {manifest.scheme}"),
        (
            "size",
            f"{format_bytes(manifest.total_bytes)}, {manifest.bits_per_weight:.2f} bits/weight",
        ),
        ("KL divergence", f"{c.kld_mean:.4f} nats (95 %: {low:.4f} to {high:.4f})"),
        ("99th percentile", f"{c.kld_p99:.4f} nats"),
        ("top-1 agreement", f"{c.top1_agreement:.1%}"),
        ("perplexity", f"{c.perplexity:.2f}; the checkpoint's is {c.perplexity_source:.2f}"),
        ("token ids and prompts", "equal" if c.token_ids_equal else "DIFFERENT"),
        ("noise floor", f"{c.noise_floor:.1e} nats"),
    ]
    return rows + answers(certificate)


def answers(certificate: Certificate) -> list[tuple[str, str]]:
    """Return what is known of whole answers: names and values."""
    rows = []
    if (greedy := certificate.greedy) is not None:
        places = ", ".join(map(str, greedy.parted_at))
        words = f"part after {greedy.median:g} of {greedy.tokens} tokens (median of {places})"
        rows.append(("greedy answers", words + "; one close call decides, so this is knife-edge"))
    if (score := certificate.generation) is not None:
        words = f"{score.right_artifact} of {score.questions} right (the checkpoint: "
        words += f"{score.right_source}), {score.same_answers} answered alike"
        rows.append(("questions", words))
    return rows


def kind_rows(certificate: Certificate) -> list[list[str]]:
    """Return a row for each kind of text, under KIND_HEADS."""
    return [
        [
            kind,
            f"{v['positions']:.0f}",
            f"{v['kld_mean']:.4f}",
            f"{v['kld_low']:.4f} to {v['kld_high']:.4f}" if "kld_low" in v else "",
            f"{v['kld_p99']:.3f}" if "kld_p99" in v else "",
            f"{v['top1_agreement']:.1%}",
        ]
        for kind, v in certificate.by_kind.items()
    ]


def html(manifest: Manifest, certificate: Certificate, tensors: Sequence[TensorReport]) -> str:
    """Return the report as one HTML page. What comes from outside is escaped."""
    good = all(report.ok is not False for report in certificate.stages)
    parts = [
        f"<h1>{escape(manifest.name)}</h1>",
        f'<p class="verdict {"good" if good else "bad"}">{escape(verdict(certificate))}</p>',
        _html_pairs(facts(manifest, certificate)),
        "<h2>Stage by stage</h2>",
        _html_stages(certificate.stages),
        pictures.stages(certificate.stages),
        "<h2>Kinds of text</h2>",
        pictures.kinds(certificate.by_kind),
        _html_table(KIND_HEADS, kind_rows(certificate)),
    ]
    if tensors:
        parts += ["<h2>Weights</h2>", pictures.tensors(tensors)]
    parts += ["<h2>How it was measured</h2>", f'<p class="note">{escape(HOW)}</p>']
    parts += ["<h2>How it was made</h2>", _html_pairs(made(manifest))]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(manifest.name)}</title><style>{CSS}{pictures.STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def made(manifest: Manifest) -> list[tuple[str, str]]:
    """Return the recipe and the tools that were used: names and values."""
    recipe = [(f"recipe: {key}", str(value)) for key, value in manifest.source.recipe.items()]
    tools = ", ".join(f"{name} {version}" for name, version in manifest.source.tools.items())
    return [*recipe, ("tools", tools), ("checkpoint digest", manifest.source.checkpoint_digest)]


def _html_pairs(pairs: Sequence[tuple[str, str]]) -> str:
    cells = [f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in pairs]
    return f"<table>{''.join(cells)}</table>"


def _html_stages(stages: Sequence[StageReport]) -> str:
    classes = {True: "good", False: "bad", None: "none"}
    rows = [
        f'<tr><th>{escape(r.stage)}</th><td class="sign {classes[r.ok]}">{SIGNS[r.ok]}</td>'
        f"<td>{escape(r.what)}</td></tr>"
        for r in stages
    ]
    return f"<table>{''.join(rows)}</table>"


def _html_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        first, *rest = (escape(cell) for cell in cells)
        numbers = "".join(f'<{tag} class="number">{cell}</{tag}>' for cell in rest)
        return f"<tr><{tag}>{first}</{tag}>{numbers}</tr>"

    return f"<table>{line(heads, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"


def markdown(
    manifest: Manifest, certificate: Certificate, pictures_there: Sequence[tuple[str, str]]
) -> str:
    """Return the report as Markdown; `pictures_there` are names of files beside it, and words."""
    stages = [[r.stage, SIGNS[r.ok], r.what] for r in certificate.stages]
    parts = [
        f"# {plain(manifest.name)}",
        f"**{verdict(certificate)}**",
        markdown_table(("", ""), facts(manifest, certificate)),
        "## Stage by stage",
        markdown_table(("stage", "", "what was found"), stages),
        "## Kinds of text",
        markdown_table(KIND_HEADS, kind_rows(certificate)),
        *(f"![{words}]({name})" for name, words in pictures_there),
        "## How it was measured",
        HOW,
        "## How it was made",
        markdown_table(("", ""), made(manifest)),
    ]
    return "\n\n".join(parts) + "\n"


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose cells cannot break it."""
    lines = [list(heads), ["---"] * len(heads), *([plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plain(text: str) -> str:
    """Return text of one line that Markdown and HTML take as it is."""
    line = " ".join(text.split())
    for sign in ("\\", "`", "*", "_", "[", "]", "|"):
        line = line.replace(sign, f"\\{sign}")
    return line.replace("<", "&lt;").replace(">", "&gt;")
