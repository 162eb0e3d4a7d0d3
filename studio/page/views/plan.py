"""What a run would take, as HTML. Knows no files and no gradio."""

from __future__ import annotations

from typing import Any

from studio.page.templates import render


def plan_table(plan: dict[str, Any]) -> str:
    """plan: rows and notes, as studio.processes.plan.measured returns them."""
    return render("plan", rows=plan["rows"], notes=plan["notes"])
