"""The colours of a page, by day and by night: variables of its style and of its charts."""

# Okabe and Ito's colours, which stay apart for the colour-blind; those too pale for a label
# on white are darker here. At night the same hues are lighter.
PALETTE = ("#0072B2", "#D55E00", "#00805C", "#A6467E", "#8A6D00", "#2F2F8F", "#7A3B00", "#3D6E70")
NIGHT_PALETTE = (
    *("#56B4E9", "#F08A3C", "#2BBF95", "#DE8CBB", "#D1B23A", "#A3A3F2", "#C99668", "#7FBFC1"),
)


def _series(palette: tuple[str, ...]) -> dict[str, str]:
    return {f"series-{i}": color for i, color in enumerate(palette)}


DAY = {
    "page": "#ffffff",
    "panel": "#f5f7f9",
    "ink": "#1d2329",
    "soft": "#37414a",
    "faint": "#5d6873",
    "line": "#e3e7ea",
    "best": "#e8f1f8",
    "good": "#18794e",
    "bad": "#c62a2f",
} | _series(PALETTE)
NIGHT = {
    "page": "#14181c",
    "panel": "#1f252b",
    "ink": "#e8ebee",
    "soft": "#cbd2d8",
    "faint": "#9aa6b1",
    "line": "#313a42",
    "best": "#1d3b52",
    "good": "#4cc38a",
    "bad": "#ff8589",
} | _series(NIGHT_PALETTE)
