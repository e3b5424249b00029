"""Bodies as services send them: made up, always the same, and neither random nor repetitive."""

from __future__ import annotations

import json
import random

_TEXT = (
    "about account across address after again answer between blue build button cache change city client close color "
    "common company content count country cover create customer daily data date deliver design detail digital each "
    "early email energy event example express family field find first follow format free front garden general green "
    "group guide health high home house image include index issue item join kind large later layer learn level light "
    "limit line list local machine make market material member message method minute mobile model money month more "
    "music name nature network never next night north note number offer office often open option order other outdoor "
    "page paper part people phone photo place plan point power press price print process product program public quick "
    "range rate reach read record region release report request result return review right river road room rule safe "
    "sample school search season second section select series service set share ship shop short show simple size small "
    "social sound source south space special stage standard start state station still stock store story street strong "
    "studio style summer supply support system table team text theme time today together total town track trade train "
    "travel update upper user value version video view visit water week white window winter wood work world write year"
)
_WORDS = _TEXT.split(" ")


def _sentence(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(_WORDS, k=words)).capitalize() + "."


def json_body(items: int = 300) -> bytes:
    """A page of a product catalogue: some 130 KiB with 300 items."""
    rng = random.Random(1)
    products = [
        {
            "id": rng.getrandbits(64),
            "sku": f"{rng.choice('ABCDEFGH')}{rng.randrange(10**6):06d}",
            "name": " ".join(rng.choices(_WORDS, k=3)).title(),
            "description": _sentence(rng, rng.randrange(15, 40)),
            "price": {"amount": rng.randrange(100, 100_000) / 100, "currency": rng.choice(("EUR", "USD", "GBP"))},
            "stock": rng.randrange(500),
            "tags": rng.sample(_WORDS, 3),
            "updated_at": f"2026-{rng.randrange(1, 13):02d}-{rng.randrange(1, 29):02d}T{rng.randrange(24):02d}:00:00Z",
            "image": f"https://cdn.example/images/{rng.getrandbits(80):020x}.webp",
        }
        for _ in range(items)
    ]
    return json.dumps({"items": products, "total": items, "next": None}).encode()


def html_body(sections: int = 150) -> bytes:
    """An article with a list of links to each section: some 110 KiB with 150 sections."""
    rng = random.Random(2)
    parts = [
        "<!doctype html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n<title>Guide</title>\n</head>\n<body>\n<nav>"
    ]
    titles = [" ".join(rng.choices(_WORDS, k=4)).title() for _ in range(sections)]
    parts += [f'<a class="nav-link" href="#section-{number}">{title}</a>' for number, title in enumerate(titles)]
    parts.append("</nav>\n<main>")
    for number, title in enumerate(titles):
        parts.append(f'<section class="card card-body" id="section-{number}">\n  <h2 class="card-title">{title}</h2>')
        for _ in range(rng.randrange(1, 4)):
            text = " ".join(_sentence(rng, rng.randrange(6, 20)) for _ in range(3))
            link = f'<a href="/guide/{rng.choice(_WORDS)}/{rng.randrange(10_000)}">{rng.choice(_WORDS)}</a>'
            parts.append(f'  <p class="card-text">{text} {link}</p>')
        parts.append("</section>")
    parts.append("</main>\n</body>\n</html>\n")
    return "\n".join(parts).encode()
