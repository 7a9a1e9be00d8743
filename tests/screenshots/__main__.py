"""`make screenshots`: a picture of every view of the console, light, dark and narrow, into `docs/console`."""

import asyncio
import os
import sys
import tempfile
from pathlib import Path

from journeys.support.server import Server
from journeys.support.users import PASSWORD
from journeys.upstream.handle import Upstream
from screenshots.demo import ADMIN, MEMBER, OPERATOR, SETTINGS, fill
from support.browsers import run_journey, share_browser, stop_browser
from tollkeeper.database.migrations import migrate

TARGET = Path(__file__).parents[2] / "docs" / "console"
KINDS = ("light", "dark", "narrow")
MAX_BYTES = 3_000_000
"""Of all pictures together: they are in the repository."""
MEMBER_VIEWS = ("playground", "quota", "charges", "charge", "usage", "documents", "keys", "requests", "security")
ADMIN_VIEWS = (
    *("people", "groups", "budgets", "templates", "tags", "quota-requests", "tenant-usage", "statement", "alerts"),
    *("moderation", "scores", "provider-keys", "audit"),
)
OPERATOR_VIEWS = ("tenants", "plans", "live", "ledger", "ledger-charge", "models", "doctor")


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="tk-screenshots-") as name:
        folder = Path(name)
        url = f"sqlite:///{folder / 'demo.db'}"
        migrate(url)
        upstream = Upstream(folder)
        server = Server(url, folder, {"OPENAI_BASE_URL": upstream.base_url} | SETTINGS).start()
        try:
            asyncio.run(_take(server, folder, share_browser(folder / "browser")))
        finally:
            stop_browser(folder / "browser")
            server.stop()
            upstream.stop()
    size = sum(path.stat().st_size for path in TARGET.glob("*.webp"))
    _write_index()
    print(f"{size:,} bytes in {os.path.relpath(TARGET)}")
    return 0 if size <= MAX_BYTES else 1


async def _take(server: Server, folder: Path, browser: str) -> None:
    charge = await fill(server)
    TARGET.mkdir(exist_ok=True)
    for old in TARGET.glob("*.webp"):
        old.unlink()
    paths = {"playground": "", "charge": f"charges/{charge}", "ledger-charge": f"ledger/{charge}"}
    paths |= {"groups": "groups?group=1", "tags": "tags?tag=1"}
    for email, views in ((MEMBER, MEMBER_VIEWS), (ADMIN, ADMIN_VIEWS), (OPERATOR, OPERATOR_VIEWS)):
        await run_journey(
            browser,
            "screenshots",
            folder,
            url=server.url,
            email=email,
            password=PASSWORD,
            signIn=email == MEMBER,
            target=str(TARGET),
            views=[{"name": view, "path": paths.get(view, view)} for view in views],
        )


def _write_index() -> None:
    lines = ["# The views of the console", "", "Made by `make screenshots`, with the data of a demonstration.", ""]
    roles = (
        ("Members", ("sign-in", *MEMBER_VIEWS)),
        ("Administrators of a tenant", ADMIN_VIEWS),
        ("Operators", OPERATOR_VIEWS),
    )
    for role, views in roles:
        lines += [f"## {role}", "", "| view | light | dark | 375 pixels wide |", "|---|---|---|---|"]
        for view in views:
            pictures = " | ".join(f"![{view}, {kind}]({view}-{kind}.webp)" for kind in KINDS)
            lines.append(f"| {view} | {pictures} |")
        lines.append("")
    (TARGET / "README.md").write_text("\n".join(lines).rstrip() + "\n")


if __name__ == "__main__":
    sys.exit(main())
