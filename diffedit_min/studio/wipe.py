"""Two pictures in one frame, with a line between them that can be dragged: the report and the page show edits so.

    html = wipe(input_address, result_address)      # addresses: data:image/png;base64,... or of files
    f"<style>{CSS}</style>{html}"

The fragment has no script and no id, so it may stand in a page many times and in pages that run no scripts of others.
The line is the thumb of a range input: mouse, finger and arrow keys move it. On paper and without scripts the pictures
stand side by side.
"""

from __future__ import annotations

from html import escape

# The input reaches beyond the picture by half a thumb on both sides, so that the thumb's middle is where the line is.
CSS = """
.wipe {
  --at: 50%; position: relative; display: grid; max-width: 26rem;
  --edge: rgba(0, 0, 0, .65);
  --knob: radial-gradient(circle, #fff .5rem, var(--edge) .53rem .6rem, transparent .65rem);
  --line: linear-gradient(90deg, transparent .62rem, var(--edge) .62rem .67rem, #fff .67rem .83rem,
                          var(--edge) .83rem .88rem, transparent .88rem);
}
.wipe > figure { grid-area: 1 / 1; position: relative; margin: 0; max-width: none; min-width: 0; }
.wipe > figure + figure { clip-path: inset(0 0 0 var(--at)); }
.wipe img { display: block; width: 100%; height: auto; border-radius: 3px; }
.wipe.pixels img { image-rendering: pixelated; }
.wipe figcaption {
  position: absolute; bottom: .4rem; left: .4rem; margin: 0; padding: .05rem .45rem; border-radius: .25rem;
  background: rgba(0, 0, 0, .72); color: #fff; font-size: .8rem; line-height: 1.5;
}
.wipe > figure + figure figcaption { left: auto; right: .4rem; }
.wipe input {
  position: absolute; inset: 0 -.75rem; z-index: 1; width: calc(100% + 1.5rem); height: 100%; margin: 0; padding: 0;
  appearance: none; background: none; border: 0; border-radius: 3px; cursor: ew-resize; touch-action: pan-y;
}
.wipe input::-webkit-slider-runnable-track { height: 100%; background: none; border: 0; }
.wipe input::-webkit-slider-thumb {
  appearance: none; width: 1.5rem; height: 100%; margin: 0; border: 0; border-radius: 0; box-shadow: none;
  background: var(--knob), var(--line);
}
.wipe input::-moz-range-track { height: 100%; background: none; border: 0; }
.wipe input::-moz-range-thumb {
  width: 1.5rem; height: 100%; border: 0; border-radius: 0; background: var(--knob), var(--line);
}
@media print, (scripting: none) {
  .wipe { grid-template-columns: 1fr 1fr; gap: 1rem; }
  .wipe > figure { grid-area: auto; }
  .wipe > figure + figure { clip-path: none; }
  .wipe input { display: none; }
}
"""


def wipe(
    left_src: str, right_src: str, left: str = "input", right: str = "result", *,
    alts: tuple[str, str] | None = None, size: tuple[int, int] | None = None, pixels: bool = False,
) -> str:
    """The fragment: `left` is seen left of the line, `right` right of it. Both pictures have one shape.

    left_src, right_src: addresses of the pictures. left, right: what stands on them. alts: what is in them, for people
    who can't see it; left out: the same. size: (width, height) of the pictures in px; with it, the page doesn't move
    while they load. pixels: True shows a small picture's pixels as squares, False smooths them.
    """
    shown = zip((left_src, right_src), (left, right), alts or (left, right), strict=True)
    sides = f' width="{size[0]}" height="{size[1]}"' if size else ""
    figures = "".join(f'<figure><img src="{escape(src)}" alt="{escape(alt)}"{sides}>'
                      f"<figcaption>{escape(name)}</figcaption></figure>" for src, name, alt in shown)
    label = escape(f"Wipe: {left} left of the line, {right} right of it")
    return (f'<div class="wipe{" pixels" if pixels else ""}" dir="ltr">{figures}'
            f'<input type="range" min="0" max="100" value="50" aria-label="{label}" '
            "oninput=\"this.parentElement.style.setProperty('--at', this.value + '%')\"></div>")
