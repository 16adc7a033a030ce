"""The tables of docs/numbers.md, made from bench/results.json and bench/gpu.json."""

import statistics

from steps import PRECISIONS

END = "<!-- to here -->"


def figure(results, step, variant):
    rates = results["steps"].get(step, {}).get("rates", {}).get(variant)
    return statistics.median(rates) if rates else None


def number(x):
    if x is None:
        return "–"
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def ratios(results, way):
    """The ratio of the medians, and of each round the least and the largest."""
    rates = results["steps"][way.step]["rates"]
    ours, theirs = rates[way.figure], rates[way.over]
    each = [a / b for a, b in zip(ours, theirs)]
    return statistics.median(ours) / statistics.median(theirs), min(each), max(each)


def row(results, way):
    ours, theirs = figure(results, way.step, way.figure), figure(results, way.step, way.over)
    if ours is None or theirs is None:
        return None
    ratio, least, most = ratios(results, way)
    bar = "" if way.bar is None else f"{way.bar:g} {'reached' if ratio >= way.bar else 'missed'}"
    cells = [
        way.what,
        f"{number(ours / way.scale)} {way.unit}",
        number(theirs / way.scale),
        f"**{ratio:.2f}** ({least:.2f} to {most:.2f})",
        bar,
    ]
    return "| " + " | ".join(cells) + " |"


def memory(results):
    lines = []
    for precision in PRECISIONS:
        step = results["steps"].get(f"train {precision}")
        if step:
            lines.append(resident(step, precision))
    title = "Most memory resident, the training step above"
    return section(title, lines) if lines else []


def resident(step, precision):
    ours, theirs = (step["peak"][side] / 1e6 for side in ("lyceum", "peer"))
    verdict = "reached" if 3 * ours <= theirs else "missed"
    cells = f"{ours:,.0f} MB | {theirs:,.0f} | **{ours / theirs:.2f}** | at most 0.33 {verdict}"
    return f"| whole process, {precision} : PEFT's | {cells} |"


def section(title, rows):
    head = "| what : beside what | Lyceum | beside | ratio (of rounds) | goal |"
    return ["", f"### {title}", "", head, "|---|---|---|---|---|", *rows]


def apart(results):
    """How far both sides' values are apart, step by step."""
    lines = []
    for name, step in results["steps"].items():
        for pair, value in step["agreement"].items():
            lines.append(f"{name}: {pair.replace(' | ', ' and ')} {value:.4f}")
    return "; ".join(lines)


def table(results, ways):
    about = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    rounds = {len(r) for step in results["steps"].values() for r in step["rates"].values()}
    threads = {step["threads"] for step in results["steps"].values()}
    commits = sorted({step["commit"] for step in results["steps"].values()})
    gpu = f"{about['gpu']}, beside " if about.get("gpu") else ""
    lines = [
        f"{gpu}{about['processor']} (family, model {about['family']}; {', '.join(about['flags'])}), "
        f"{about['cores']} cores; threads {'/'.join(map(str, sorted(threads)))} on both sides; "
        f"{versions}. Medians of {'/'.join(map(str, sorted(rounds)))} alternating turns. "
        f"Lyceum at {', '.join(commits)}.",
    ]
    for title, rows in ways.items():
        rows = [text for text in (row(results, way) for way in rows) if text]
        if rows:
            lines += section(title, rows)
    if not gpu:
        lines += memory(results)
    lines += ["", f"Differences between the sides' values, as a share of their spread: {apart(results)}."]
    return "\n".join(lines)


def write_section(path, writer, text):
    """Puts `text` between the two comments of a page, the first of which names its writer."""
    begin = f"<!-- {writer} writes from here"
    before, rest = path.read_text().split(begin, 1)
    comment, rest = rest.split("\n", 1)
    after = rest.split(END, 1)[1]
    path.write_text(f"{before}{begin}{comment}\n\n{text}\n\n{END}{after}")
