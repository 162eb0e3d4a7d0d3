"""The page's colours and fonts; only fonts the system has. What else is special to it: page.css."""

from __future__ import annotations

from gradio import themes

# From the lightest shade to the darkest
SEAL = "#fdf3ef #f9e2d9 #f3c6b6 #eba48c #ef8260 #cf5535 #b3391f #942e1a #792819 #652519 #37100a"
PAPER = "#fbf9f5 #f3efe7 #e5dfd3 #cfc7b8 #a1998a #756e61 #5a5449 #433e36 #2b2823 #1e1b18 #141210"
FAINT = "#bab2a4"  # what is said beside, in the dark: 4.5 : 1 on every field


def theme() -> themes.Base:
    """Return gradio's base theme in the page's colours."""
    seal = themes.Color(*SEAL.split(), name="seal")
    paper = themes.Color(*PAPER.split(), name="paper")
    made = themes.Base(
        primary_hue=seal,
        secondary_hue=seal,
        neutral_hue=paper,
        radius_size=themes.sizes.radius_md,
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "Consolas", "monospace"],
    )
    return made.set(
        body_background_fill="#f6f3ec",
        body_background_fill_dark="#171512",
        block_background_fill="#fffdf9",
        block_border_width="1px",
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark=FAINT,
        block_label_text_color="*neutral_600",
        input_background_fill="#ffffff",
        input_border_width="1px",
        input_border_color="*neutral_300",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_700",
        button_primary_text_color="#ffffff",
        button_secondary_background_fill="#ffffff",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="*neutral_600",
        button_border_width="1px",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark=FAINT,
        block_info_text_color="*neutral_500",
        block_info_text_color_dark=FAINT,
        block_title_text_weight="600",
    )
