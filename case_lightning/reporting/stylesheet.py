"""The page's style sheet: light, dark, narrow and printed.

Sizes of text within a drawing are in the drawing's units, of which 720 span its width; a narrow screen shrinks the
drawing, so there the text in it is set larger.
"""

STYLESHEET = """
:root {
  --page: #fcfbf9; --raised: #ffffff; --text: #1d2126; --quiet: #5d656e; --rule: #dedbd5; --ground: #efece6;
  --series-0: #2b5f92; --series-1: #b4532a; --series-2: #3a7d55; --series-3: #7c4d9c; --series-4: #8a6a12;
  --series-5: #56626e;
  --opened: #c2410c; --forced: #8e2450; --shared: #4f7fae; --retired: #b3b8be;
  --shade-0: #8f3a14; --shade-1: #b9602f; --shade-2: #d99b74; --shade-3: #ecccb6; --shade-4: #eceae5;
  --shade-5: #c6d8e9; --shade-6: #97b9d8; --shade-7: #5587b8; --shade-8: #245486;
  --drawn-text: 12px;
  color-scheme: light dark;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --page: #15181c; --raised: #1c2025; --text: #e6e4df; --quiet: #9aa3ad; --rule: #343a41; --ground: #23282e;
    --series-0: #7db2e3; --series-1: #e39467; --series-2: #7cc294; --series-3: #bf97dd; --series-4: #d1b15a;
    --series-5: #a9b4bf;
    --opened: #ff9d5c; --forced: #f08bb4; --shared: #5b8fc0; --retired: #4d555e;
    --shade-0: #f3ac84; --shade-1: #d07a4d; --shade-2: #98552f; --shade-3: #5c3826; --shade-4: #2d3136;
    --shade-5: #29435c; --shade-6: #33658f; --shade-7: #5192c6; --shade-8: #9dcaf0;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 0 1.5rem 4rem; max-width: 72rem; background: var(--page); color: var(--text);
  font: 1rem/1.55 ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere;
}
h1, h2, h3, h4, p, ul, dl, dd, figure { margin: 0; padding: 0; }
h1 { font-size: clamp(1.7rem, 1.2rem + 2vw, 2.5rem); line-height: 1.15; letter-spacing: -.02em; font-weight: 650; }
h2 { font-size: 1.2rem; line-height: 1.3; letter-spacing: -.01em; font-weight: 650; }
h3, h4 { font-size: 1rem; font-weight: 600; }
body > header { padding: 3rem 0 2.25rem; }
body > header > :not(h1):not(.kicker) { margin-top: .6rem; color: var(--quiet); max-width: 46rem; list-style: none; }
.kicker { font-size: .85rem; color: var(--quiet); margin-bottom: .35rem; }
section {
  display: grid; grid-template-columns: 15rem minmax(0, 1fr); gap: 1rem 3rem;
  padding: 2.25rem 0; border-top: 1px solid var(--rule);
}
section > header p { margin-top: .5rem; font-size: .875rem; color: var(--quiet); }
.content { display: grid; gap: 1.75rem; min-width: 0; align-content: start; }
.run { min-width: 0; }
.run > h3 { margin-bottom: .75rem; }
.note { color: var(--quiet); font-style: italic; }
.tiles { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 1.5rem; }
.tile h3 { font-size: .875rem; font-weight: 500; color: var(--quiet); }
.tile .figure { font-size: 2.1rem; line-height: 1.25; font-weight: 650; letter-spacing: -.02em; }
.tile svg { display: block; width: 100%; height: 12px; margin-top: .5rem; }
.tile .before { font-size: .875rem; }
.tile .meaning { font-size: .8rem; color: var(--quiet); }
.tile .fill { fill: var(--series-0); }
.tile .mark { fill: var(--text); }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font-size: var(--drawn-text); fill: var(--quiet); }
svg .middle { text-anchor: middle; }
svg .end { text-anchor: end; }
svg .ground { fill: var(--ground); }
svg .grid { stroke: var(--rule); vector-effect: non-scaling-stroke; }
.line path { fill: none; stroke: var(--ink); stroke-width: 2; stroke-linejoin: round; }
svg .line path { vector-effect: non-scaling-stroke; }
.line circle { fill: var(--ink); }
.series-0 { --ink: var(--series-0); }
.series-1 { --ink: var(--series-1); }
.series-2 { --ink: var(--series-2); }
.series-3 { --ink: var(--series-3); }
.series-4 { --ink: var(--series-4); }
.series-5 { --ink: var(--series-5); }
.series-1 path { stroke-dasharray: 9 3; }
.series-2 path { stroke-dasharray: 3 3; }
.series-3 path { stroke-dasharray: 9 3 2 3; }
.series-4 path { stroke-dasharray: 14 4; }
.series-5 path { stroke-dasharray: 2 4; }
.reference { --ink: var(--quiet); }
.reference path { stroke-width: 1.25; stroke-dasharray: 4 4; }
.kind-shared { --ink: var(--shared); }
.kind-opened { --ink: var(--opened); }
.kind-forced { --ink: var(--forced); }
.kind-retired, .kind-unknown { --ink: var(--retired); }
.shade-0 { --ink: var(--shade-0); }
.shade-1 { --ink: var(--shade-1); }
.shade-2 { --ink: var(--shade-2); }
.shade-3 { --ink: var(--shade-3); }
.shade-4 { --ink: var(--shade-4); }
.shade-5 { --ink: var(--shade-5); }
.shade-6 { --ink: var(--shade-6); }
.shade-7 { --ink: var(--shade-7); }
.shade-8 { --ink: var(--shade-8); }
[class^="kind-"], [class^="shade-"] { fill: var(--ink); }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; list-style: none; }
.legend { font-size: .875rem; margin-top: .5rem; }
.swatch { display: inline-block; width: .8rem; height: .8rem; background: var(--ink); }
.legend .swatch { margin-right: .45rem; border-radius: 2px; }
.legend .line { display: inline-block; width: 2rem; height: .5rem; margin-right: .45rem; }
.ramp { display: inline-flex; vertical-align: -.1em; }
.ramp .swatch { width: 1.3rem; }
.key, figcaption { margin-top: .5rem; font-size: .875rem; }
figcaption { color: var(--quiet); }
details { margin-top: .75rem; font-size: .875rem; }
summary { cursor: pointer; color: var(--quiet); }
.scroll { overflow: auto; }
details .scroll { max-height: 18rem; margin-top: .5rem; }
table { border-collapse: collapse; min-width: min(100%, 28rem); font-size: .925rem; }
caption { text-align: left; color: var(--quiet); font-size: .875rem; padding-bottom: .4rem; }
th, td { text-align: right; padding: .4rem 0 .4rem 1.25rem; border-bottom: 1px solid var(--rule); font-weight: 400; }
th:first-child { text-align: left; padding-left: 0; }
thead th { font-size: .82rem; color: var(--quiet); vertical-align: bottom; border-bottom-color: var(--quiet); }
td, th { overflow-wrap: normal; }
th:first-child { min-width: 6.5rem; overflow-wrap: break-word; }
td small { color: var(--quiet); font-size: .82rem; white-space: nowrap; }
.examples { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1.5rem 2rem; }
.examples h4 { margin-bottom: .75rem; }
article { background: var(--raised); border: 1px solid var(--rule); border-radius: 6px; padding: .9rem 1rem; }
article + article { margin-top: .75rem; }
.prompt { font-weight: 600; line-height: 1.4; }
.answers { margin: .6rem 0; display: grid; gap: .3rem; font-size: .925rem; }
.answers div { display: grid; grid-template-columns: 3.6rem minmax(0, 1fr); gap: .5rem; }
dt { color: var(--quiet); }
.answers dd { white-space: pre-wrap; }
.scores { font-size: .8rem; color: var(--quiet); }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: .8rem 2rem; }
.facts dt { font-size: .82rem; }
pre {
  margin: .6rem 0 0; padding: .9rem 1rem; overflow: auto; max-height: 32rem; background: var(--raised);
  border: 1px solid var(--rule); border-radius: 6px; font: .82rem/1.5 ui-monospace, SFMono-Regular, Menlo, monospace;
  overflow-wrap: normal;
}
:focus-visible { outline: 2px solid var(--series-0); outline-offset: 2px; }
@media (max-width: 60rem) {
  section { grid-template-columns: minmax(0, 1fr); gap: 1.25rem; }
  section > header p { max-width: 40rem; }
}
@media (max-width: 40rem) {
  :root { --drawn-text: 21px; }
  body { padding: 0 1rem 3rem; }
  body > header { padding: 2rem 0 1.5rem; }
  section { padding: 1.75rem 0; }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .examples { grid-template-columns: minmax(0, 1fr); }
  .ramp .swatch { width: .7rem; }
}
@media print {
  :root { --page: #fff; --raised: #fff; --drawn-text: 12px; color-scheme: light; }
  body { max-width: none; padding: 0; font-size: 10pt; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  body > header { padding: 0 0 1rem; }
  section { display: block; padding: 1rem 0; }
  .content { display: block; }
  .content > * + * { margin-top: 1rem; }
  .tiles { grid-template-columns: repeat(4, minmax(0, 1fr)); }
  figure, article, .tile, .scroll, section > header { break-inside: avoid; }
  section > header, h3, h4 { break-after: avoid; }
  section > header { margin-bottom: .75rem; }
  .scroll, pre { max-height: none !important; overflow: visible; }
  pre { white-space: pre-wrap; }
  figure details { display: none; }
  details::details-content { content-visibility: visible; block-size: auto; }
}
"""
