"""What is installed: every pin with its hashes, and whether the registry knows it to be vulnerable (``pytest --online``)."""

import json
import re
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from urllib.error import URLError

import pytest
from pip._internal.models.index import PyPI

from nas_lib.results import root

PIN = re.compile(r"^([\w.-]+)==(\S+)", re.MULTILINE)
PINS = dict(PIN.findall((root() / "requirements.txt").read_text()))
LOCK = (root() / "notebooks/profiles/requirements.lock").read_text()


def faults(name: str, version: str, ask) -> list[str]:
    """Known vulnerabilities of a package, as the registry lists them; ``ask`` gets an address and gives a stream."""
    with ask(f"{PyPI.pypi_url}/{name}/{version}/json") as answer:
        known = json.load(answer)["vulnerabilities"]
    return [f"{name} {version}: {v['id']}, mended in {', '.join(v['fixed_in']) or 'no version yet'}: {v.get('summary') or ''}"
            for v in known if not v.get("withdrawn")]


def test_the_lock_has_every_pin_and_hashes_for_all():
    packages = re.split(r"\n(?=\S)", LOCK.strip())
    locked = dict(PIN.findall(LOCK))
    assert {n: locked.get(n) for n in PINS} == PINS
    assert len(packages) > 100 and all("--hash=sha256:" in p for p in packages)
    assert "://" not in LOCK, "it must not say where packages come from"


def test_an_answer_of_the_registry_is_understood(tmp_path):
    answer = tmp_path / "answer.json"
    entry = {"id": "X-1", "fixed_in": ["2.0"], "summary": "Bad.", "withdrawn": None}
    answer.write_text(json.dumps({"vulnerabilities": [entry, entry | {"withdrawn": "2026-01-01"}, entry | {"fixed_in": []}]}))
    asked = []
    found = faults("thing", "1.0", lambda url: asked.append(url) or open(answer))
    assert asked[0].endswith("/thing/1.0/json")
    assert found == ["thing 1.0: X-1, mended in 2.0: Bad.", "thing 1.0: X-1, mended in no version yet: Bad."]


def test_no_pin_is_known_to_be_vulnerable(request):
    if not request.config.getoption("--online"):
        pytest.skip("asks the registry only if called with --online")
    def ask(url):
        return urllib.request.urlopen(url, timeout=10)

    try:
        faults(*next(iter(PINS.items())), ask)      # one first: offline each would wait for its time to run out
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda pin: faults(*pin, ask), PINS.items()))
    except (URLError, TimeoutError) as error:
        pytest.skip(f"the registry cannot be reached: {error}")
    assert not sum(found, []), "\n".join(sum(found, []))
