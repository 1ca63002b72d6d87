"""The status page in a browser: live, on a phone, in the dark, and safe from the names that it shows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import trio
from pydantic import SecretStr

from tests.fix_browser import Browser
from tests.fix_devices import Device, open_device, tag
from tests.fix_postgres import PostgresServer
from tests.fix_service import RunningService, open_service

HTML = Path(__file__).parent.parent / "scada_trio" / "web" / "static" / "status.html"
EVIL = "<script>window.stolen=1</script><img src=x onerror=window.stolen=1>"
SCHEMES: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": {"color_scheme": "light", "width": 390, "height": 844, "is_mobile": True, "device_scale_factor": 2},
}


def page_of(running: RunningService) -> str:
    return "http://{}:{}/".format(*running.addresses.http)


async def test_a_device_that_goes_and_comes_is_seen_without_reloading(
    browser: Browser, postgres: PostgresServer, tenant_url: SecretStr
) -> None:
    async with open_device("open62541", nodes=["P"]) as device, open_service(postgres) as running:
        tenant = await running.add_tenant(tenant_url, EVIL)
        connection = await running.add_connection(tenant, device.url, [tag("ns=1;s=P"), tag("ns=1;s=Gone")])
        await running.connected(tenant, connection, tags=1)
        await device.write("P", 1.0)
        await running.until_stored(tenant, "ns=1;s=P", 1.0)
        row = f"tr[data-connection='{connection}']"
        await trio.to_thread.run_sync(watch_it_go, browser, page_of(running), row, device)
        assert (await running.get("/healthz")).status_code == 200


def watch_it_go(browser: Browser, url: str, row: str, device: Device) -> None:
    with browser.window() as window:
        page = window.page
        page.goto(url)
        page.wait_for_selector(f"{row} .state.good")
        page.evaluate("window.sameDocument = true")
        assert window.text("h2") == EVIL
        assert window.text(f"{row} summary") == "1, 1 refused"
        page.click(f"{row} summary")
        assert window.text(f"{row} li") == "ns=1;s=Gone BadNodeIdUnknown"
        assert device.url in window.text(f"{row} .endpoint")
        trio.from_thread.run(device.kill)
        page.wait_for_selector(f"{row} .state.warn")
        page.wait_for_function("row => document.querySelector(row + ' .error').textContent !== ''", arg=row)
        page.wait_for_function("document.getElementById('total-connections').textContent === '0/1'")
        trio.from_thread.run(device.start)
        page.wait_for_selector(f"{row} .state.good")
        page.wait_for_function("row => document.querySelector(row + ' .error').textContent === ''", arg=row)
        page.wait_for_function("document.getElementById('line').getAttribute('d').split('L').length > 2")
        assert page.evaluate("[window.sameDocument, window.stolen]") == [True, None]
        assert window.complaints == []
        assert {re.sub(r"[^/]*$", "", address) for address in window.asked} <= {url, f"{url}status/", "data:,"}


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_it_suits_the_screen(
    browser: Browser, postgres: PostgresServer, tenant_url: SecretStr, scheme: str
) -> None:
    async with open_service(postgres) as running:
        tenant = await running.add_tenant(tenant_url, "Permian " + "x" * 60)
        await running.add_connection(tenant, "opc.tcp://127.0.0.1:1/" + "long/" * 30, [tag("ns=1;s=P")])
        await trio.to_thread.run_sync(look, browser, page_of(running), SCHEMES[scheme])


def look(browser: Browser, url: str, options: dict[str, Any]) -> None:
    with browser.window(**options) as window:
        window.page.goto(url)
        window.page.wait_for_selector("tr[data-connection] .endpoint")
        measured = window.page.evaluate(
            """() => ({
                scrolls: document.documentElement.scrollWidth > document.documentElement.clientWidth,
                dark: getComputedStyle(document.body).backgroundColor,
                head: getComputedStyle(document.querySelector('thead')).display,
            })"""
        )
        assert not measured["scrolls"], "wider than the screen"
        red = int(re.findall(r"\d+", measured["dark"])[0])
        assert (red < 128) == (options["color_scheme"] == "dark")
        assert (measured["head"] == "none") == options.get("is_mobile", False)
        assert window.complaints == []


async def test_a_service_that_stops_is_seen(browser: Browser, postgres: PostgresServer, tenant_url: SecretStr) -> None:
    async with open_service(postgres) as running:
        await running.add_tenant(tenant_url)
        await trio.to_thread.run_sync(watch_it_stop, browser, page_of(running), running)


def watch_it_stop(browser: Browser, url: str, running: RunningService) -> None:
    with browser.window() as window:
        window.page.goto(url)
        window.page.wait_for_selector("#link.good")
        trio.from_thread.run_sync(running.stop.set)
        trio.from_thread.run(running.done.wait)
        window.page.wait_for_selector("#link.bad")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(scheme: str) -> None:
    """Every text colour has a contrast of 4.5 to 1 with the card and the page (WCAG 2.2, 1.4.3)."""
    light, dark = re.findall(r":root \{(.*?)\}", HTML.read_text("utf-8"), re.DOTALL)
    colours = dict(re.findall(r"--(\w+): (#\w+)", light if scheme == "light" else dark))
    for name in ("text", "soft", "good", "warn", "bad", "idle", "chart"):
        for ground in ("page", "card"):
            assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
