#!/usr/bin/env python3
"""Builds the demo model's corpus from Debian documentation packages.

    corpus.py --out DIR            # needs apt-get, dpkg and groff

Downloads each package of packages.py, reads English prose paragraphs out of its HTML, man, POD and
plain-text files, drops repeated paragraphs, and writes DIR/train.jsonl and DIR/heldout.jsonl (one
document a line: {"id", "text"}) and DIR/manifest.json (package versions and sizes). A document is
held out when a hash of its package and path says so, about 1 in 50; paragraphs that share wording
with a held-out document are removed from the training part, so that the tokenizer and the model
never see them.
"""
import argparse
import gzip
import hashlib
import html.parser
import json
import multiprocessing
import os
import re
import subprocess
import unicodedata

from packages import PACKAGES, SKIP

HELDOUT_ONE_IN = 50
SHINGLE = 10               # words in a row that count as shared wording
SHARED_LIMIT = 0.2         # share of a paragraph's shingles found in held-out text

FUNCTION_WORDS = frozenset(
    """the of to and a in is it that for on with as be this are by an or from at you if can will not
    which have has was when use used your all any but no one only may must should each other than
    then there these they we i he his her its into out up so do does their them been were would what
    how who where also such some more most between because however see same both using""".split())
ASCII = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-",
                       "\u2014": "--", "\u2026": "...", "\u00a0": " ", "\u2010": "-", "\u2011": "-",
                       "\u2212": "-", "\u00ad": None, "\u200b": None, "\ufeff": None, "\u00b6": None})


class Html(html.parser.HTMLParser):
    """Collects (is_heading, text) blocks, without navigation, listings and scripts."""
    SKIP_TAGS = {"script", "style", "pre", "nav", "head", "header", "footer", "form", "aside",
                 "svg", "math", "screen", "info", "button"}
    SKIP_CLASS = re.compile(r"nav|sidebar|related|toc|footer|breadcrumb|menu|highlight|programlisting"
                            r"|copyright|legalnotice|headerlink|indexterm|screen|code-block|synopsis",
                            re.I)
    VOID = {"br", "hr", "img", "input", "link", "meta", "col", "area", "base", "wbr"}
    INLINE = {"a", "b", "i", "em", "strong", "code", "tt", "span", "kbd", "var", "samp", "sub", "sup",
              "abbr", "acronym", "cite", "q", "u", "s", "small", "big", "font", "dfn", "ins", "del",
              "mark", "img", "wbr", "gui", "guiseq", "key", "keyseq", "app", "cmd", "file", "link",
              "input", "sys", "output"}
    HEADINGS = {"h1", "h2", "h3", "h4", "title"}

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.blocks, self.text, self.heading = [], [], False
        self.skip_tag, self.skip_depth = None, 0

    def flush(self, heading=False):
        text = " ".join("".join(self.text).split())
        if text:
            self.blocks.append((self.heading, text))
        self.text, self.heading = [], heading

    def handle_starttag(self, tag, attrs):
        if self.skip_tag:
            self.skip_depth += tag == self.skip_tag
            return
        css = " ".join(v or "" for k, v in attrs if k in ("class", "id"))
        css = re.sub(r"wy-(grid-for-nav|nav-content[a-z-]*)", "", css)   # Read-the-Docs page frames
        # Page-level classes ("with-sidebar") must not hide the page.
        if tag in self.SKIP_TAGS or (css and tag not in ("body", "html", "main", "article")
                                     and len(css) < 40 and self.SKIP_CLASS.search(css)):
            if tag not in self.VOID:
                self.skip_tag, self.skip_depth = tag, 1
        elif tag not in self.INLINE:
            self.flush(tag in self.HEADINGS)

    def handle_endtag(self, tag):
        if self.skip_tag:
            self.skip_depth -= tag == self.skip_tag
            if self.skip_depth == 0:
                self.skip_tag = None
        elif tag not in self.INLINE:
            self.flush()

    def handle_data(self, data):
        if not self.skip_tag:
            self.text.append(data)


def html_blocks(raw):
    parser = Html()
    parser.feed(raw)
    parser.close()
    parser.flush()
    return parser.blocks


def man_blocks(raw):
    command = ["groff", "-Tutf8", "-mandoc", "-P-cbou", "-rLL=20000n", "-rHY=0"]
    out = subprocess.run(command, input=raw.encode(), capture_output=True, timeout=60).stdout.decode()
    return [(False, " ".join(line.split())) for line in out.split("\n")]


def text_blocks(raw):
    """Plain text, Markdown and POD: paragraphs between blank lines, list items apart."""
    for _ in range(3):                                     # POD codes nest: C<...>, L<text|target>
        raw = re.sub(r"\b[BCFIL]<+ ?(?:([^<>|]*)\|[^<>]*|([^<>]*?)) ?>+", r"\1\2", raw)
    raw = re.sub(r"E<lt>", "<", raw).replace("E<gt>", ">")
    raw = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", raw)     # Markdown links
    raw = re.sub(r"\n\s*(?=[-*o] )", "\n\n", raw)         # list items
    return [(False, re.sub(r"^[-*o] ", "", " ".join(block.split())))
            for block in re.split(r"\n\s*\n", raw) if not block.startswith(("=", "#"))]


def is_prose(text):
    """True for a paragraph of English sentences; listings, tables and fragments fail."""
    if not 50 <= len(text) <= 6000 or text[-1] not in ".!?:\"')":
        return False
    words = re.findall(r"[a-z']+", text.lower())
    return ((text[0].isalnum() or text[0] in "\"'(")
            and len(words) >= 8
            and sum(c.isalpha() or c == " " for c in text) >= 0.86 * len(text)
            and sum(not c.isascii() for c in text) <= 0.01 * len(text)
            and sum(w in FUNCTION_WORDS for w in words) >= 0.25 * len(words)
            and max(map(len, text.split())) <= 50
            and "  *" not in text and "|" not in text and '"""' not in text)


def document(blocks):
    """Prose paragraphs, each heading kept where prose follows it."""
    out, heading = [], None
    for is_heading, text in blocks:
        text = unicodedata.normalize("NFC", text.translate(ASCII)).strip()
        if is_heading:
            heading = re.sub(r"^(Chapter |Section |Appendix )?[\dA-Z]?[\d.]*\.? ", "", text)
        elif text and is_prose(text):
            if heading and 3 <= len(heading) <= 80 and heading.isascii():
                out.append(heading)
            heading = None
            out.append(text)
    return out


def read_file(job):
    name, path = job
    opened = gzip.open(path, "rb") if path.endswith(".gz") else open(path, "rb")
    with opened as fh:
        raw = fh.read().decode("utf-8", "replace")
    base = path[:-3] if path.endswith(".gz") else path
    if base.endswith((".html", ".page")):
        blocks = html_blocks(raw)
    elif re.search(r"/man\d/", base):
        blocks = man_blocks(raw)
    else:
        blocks = text_blocks(raw)
    return name, document(blocks)


def fetch(package, work):
    """Downloads and unpacks one package; returns its version and folder."""
    debs, tree = os.path.join(work, "debs"), os.path.join(work, "x", package)
    os.makedirs(debs, exist_ok=True)
    found = [f for f in os.listdir(debs) if f.startswith(package + "_")]
    if not found:
        subprocess.run(["apt-get", "download", "-q", package], cwd=debs, check=True)
        found = [f for f in os.listdir(debs) if f.startswith(package + "_")]
    if not os.path.isdir(tree):
        os.makedirs(tree)
        subprocess.run(["dpkg", "-x", os.path.join(debs, found[0]), tree], check=True)
    return found[0].split("_")[1].replace("%3a", ":"), tree


def key(text):
    return hashlib.blake2b(re.sub(r"\W+", "", text.lower()).encode(), digest_size=12).digest()


def shingles(text):
    words = re.findall(r"\w+", text.lower())
    return [hash(tuple(words[i:i + SHINGLE])) for i in range(len(words) - SHINGLE + 1)]


def is_heldout(name):
    return int(hashlib.sha1(name.encode()).hexdigest(), 16) % HELDOUT_ONE_IN == 0


def main():
    args = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    args.add_argument("--out", required=True)
    out = args.parse_args().out
    jobs, manifest = [], {}
    for package, pattern, licence in PACKAGES:
        version, tree = fetch(package, out)
        manifest[package] = {"version": version, "licence": licence, "documents": 0, "bytes": 0}
        for folder, _, files in os.walk(tree):
            for path in (os.path.join(folder, f) for f in files):
                inner = path[len(tree):]
                if (re.search(pattern, inner) and not re.search(SKIP, inner)
                        and not os.path.islink(path) and os.path.getsize(path) < 4 << 20):
                    jobs.append((f"{package}:{inner}", path))
    jobs.sort(key=lambda job: hashlib.sha1(job[0].encode()).digest())     # a fixed shuffle
    with multiprocessing.Pool() as pool:
        documents = pool.map(read_file, jobs, chunksize=16)
    documents.sort(key=lambda d: not is_heldout(d[0]))                    # held-out first; stable
    seen, held = set(), set()
    with open(os.path.join(out, "train.jsonl"), "w") as train, \
            open(os.path.join(out, "heldout.jsonl"), "w") as heldout:
        for name, paragraphs in documents:
            hold, kept, chars = is_heldout(name), [], 0
            for p in paragraphs:
                k = key(p)
                if is_prose(p):
                    s = shingles(p)
                    if k in seen or (not hold and s and sum(x in held for x in s) > SHARED_LIMIT * len(s)):
                        continue
                    seen.add(k)
                    if hold:
                        held.update(s)
                    chars += len(p)
                kept.append(p)
            kept = [p for p, q in zip(kept, kept[1:] + ["."]) if is_prose(p) or is_prose(q)]
            if chars < 300:
                continue
            text = "\n\n".join(kept) + "\n"
            (heldout if hold else train).write(json.dumps({"id": name, "text": text}) + "\n")
            entry = manifest[name.split(":")[0]]
            entry["documents"] += 1
            entry["bytes"] += len(text.encode())
    with open(os.path.join(out, "manifest.json"), "w") as fh:
        json.dump(manifest, fh, indent=1)
    for package, m in sorted(manifest.items(), key=lambda item: -item[1]["bytes"]):
        print(f"{package:28s} {m['version']:32s} {m['documents']:6d} {m['bytes'] / 1e6:7.2f} MB")


if __name__ == "__main__":
    main()
