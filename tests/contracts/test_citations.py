"""Every weighting's papers are known, every known paper is used, and BibTeX can read them."""

import re
import subprocess
import sys
from importlib import resources

import pytest
import torch

import crossbatch as xb
import crossbatch.weighting
from crossbatch.citation import PAPERS, cite, entries

TEXT = resources.files("crossbatch").joinpath("citations.bib").read_text(encoding="utf-8")
WEIGHTINGS = [
    member
    for member in vars(crossbatch.weighting).values()
    if isinstance(member, type) and issubclass(member, xb.PairWeighting)
]
# Cited by pages alone, or by weightings to come.
NOT_CITED_BY_CODE = {
    "schroff2015facenet",
    "wu2017sampling",
    "yi2014deep",
    "song2016lifted",
    "sohn2016npair",
    "goldberger2004nca",
    "frosst2019softnn",
    "oord2018cpc",
    "chen2020simclr",
    "khosla2020supcon",
    "yeh2022decoupled",
    "sun2020circle",
    "wang2019ranked",
    "yu2019tuplet",
    "yuan2019snr",
    "wang2017angular",
    "cakir2019fastap",
    "brown2020smoothap",
    "patel2022recallk",
    "gao2021gradcache",
    "kim2020proxyanchor",
    "teh2020proxynca",
    "movshovitz2017proxynca",
    "deng2019arcface",
    "wang2018cosface",
    "qian2019softtriple",
    "musgrave2020reality",
}


def parse(text):
    """A reader of BibTeX: entries of `name = {value}`, whose braces match and may nest."""

    def group(start):
        depth = 0
        for place in range(start, len(text)):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if not depth:
                return text[start + 1 : place], place + 1
        raise AssertionError(f"a brace is never closed: {text[start : start + 60]}")

    def fields(body):
        found, place = {}, 0
        pattern = re.compile(r"\s*(\w+)\s*=\s*\{")
        while match := pattern.match(body, place):
            depth, end = 1, match.end()
            while depth:
                depth += {"{": 1, "}": -1}.get(body[end], 0)
                end += 1
            assert match[1] not in found
            found[match[1]] = body[match.end() : end - 1]
            assert body[end : end + 1] == ","
            place = end + 1
        assert not body[place:].strip(), body[place:]
        return found

    read, place = {}, 0
    while match := re.compile(r"\s*@(\w+)(?=\{)").match(text, place):
        body, place = group(match.end())
        key, rest = body.split(",", 1)
        assert key not in read
        read[key] = {"kind": match[1], **fields(rest)}
    assert not text[place:].strip(), text[place:]
    return read


PARSED = parse(TEXT)


def test_bibtex_reads_what_cite_reads():
    assert list(PARSED) == list(entries())


@pytest.mark.parametrize("key", PARSED)
def test_an_entry_is_whole(key):
    entry = PARSED[key]
    venue = {"inproceedings": {"booktitle"}, "misc": {"eprint"}}[entry["kind"]]
    assert {"title", "author", "year"} | venue <= set(entry)
    author, year = re.fullmatch(r"([a-z]+)(\d{4})[a-z]+", key).groups()
    assert year == entry["year"]
    assert author in entry["author"].split(" and ")[0].lower()
    assert re.fullmatch(r"\d+--\d+", entry.get("pages", "1--2"))
    assert re.fullmatch(r"\d{4}\.\d{5}", entry.get("eprint", "1234.56789"))


@pytest.mark.parametrize("weighting", WEIGHTINGS, ids=lambda w: w.__name__)
def test_papers_of_a_weighting_are_known(weighting):
    assert set(weighting.cites) <= set(entries())
    assert weighting.cites or weighting is xb.PairWeighting


def test_every_entry_is_used():
    used = {key for weighting in WEIGHTINGS for key in weighting.cites}
    used |= {
        *PAPERS,
        *xb.CrossBatchMemory.cites,
        *xb.PerImageMemory.cites,
        *xb.CrossBatchNormalisation.cites,
        *xb.MomentumKeys.cites,
        *xb.Prism.cites,
        *xb.from_functions(abs, abs).cites,
    }
    assert set(entries()) - used <= NOT_CITED_BY_CODE


def test_parts_are_cited_in_order_and_each_paper_once():
    loss = xb.PairLoss(xb.Contrastive(0.3))
    assert list(parse(cite(loss))) == ["hadsell2006contrastive", "wang2020xbm"]
    assert cite(xb.Contrastive) == cite(xb.Contrastive()) == cite(loss)
    everything = cite(xb.CrossBatchMemory(2, 2), loss, xb.MultiSimilarity)
    keys = ["wang2020xbm", "hadsell2006contrastive", "wang2019multisimilarity"]
    assert list(parse(everything)) == keys


def test_nothing_given_cites_crossbatch():
    assert list(parse(xb.cite())) == list(PAPERS)


@pytest.mark.parametrize("part", [3, "contrastive", torch.nn.Identity(), xb.PairLoss])
def test_what_cites_nothing_is_refused(part):
    with pytest.raises(xb.CrossbatchError, match=r"`cites` in cite.*Got .*Give a weighting"):
        cite(part)


def test_an_unknown_key_names_the_nearest():
    class Mine(xb.Contrastive):
        cites = ("wang2020xmb",)

    with pytest.raises(xb.CrossbatchError, match=r"'wang2020xmb'.*Did you mean `wang2020xbm`"):
        cite(Mine)


def test_citing_needs_no_torch():
    code = "import sys, crossbatch as xb; print(xb.cite()); assert 'torch' not in sys.modules"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
