"""The style sheet of a run's page: light and dark, wide and narrow, screen and paper."""

from __future__ import annotations

__all__ = ["STYLE"]

STYLE = """
:root { --page: #fff; --text: #1d2127; --soft: #626a75; --line: #e3e6ea; --panel: #f6f7f9; --bad: #c22f3d;
  --c0: #2f6fdb; --c1: #d9730d; --c2: #23875a; --c3: #8458c4; --c4: #c43f5c; --c5: #6b7683; }
@media (prefers-color-scheme: dark) { :root { --page: #15181c; --text: #e6e8eb; --soft: #9aa3ad; --line: #2e343b;
  --panel: #1d2126; --bad: #ff7b86; --c0: #6ea3ff; --c1: #f59e4c; --c2: #55c490; --c3: #b494ef; --c4: #f0819a;
  --c5: #9aa6b4; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); line-height: 1.55; overflow-wrap: break-word;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; font-size: 16px; }
main { max-width: 1060px; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
header { max-width: 46rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .4rem; letter-spacing: -.015em; }
h2 { font-size: 1.3rem; margin: 3rem 0 .5rem; letter-spacing: -.01em; }
h3 { font-size: 1rem; margin: 1.75rem 0 .5rem; }
p { margin: .5rem 0; } section > p { max-width: 46rem; }
.lead { font-size: 1.1rem; }
code, pre { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: .86em; }
small, .meta, .note, figcaption, footer { color: var(--soft); }
.meta, .note, figcaption { font-size: .875rem; }
footer { margin-top: 4rem; font-size: .8rem; }
.state { display: inline-block; padding: .05rem .6rem; margin-right: .35rem; border-radius: 1rem; font-weight: 600;
  border: 1px solid currentColor; color: var(--c5); }
.state.finished { color: var(--c2); } .state.running { color: var(--c0); }
.state.interrupted { color: var(--c1); } .state.failed, .bad { color: var(--bad); }
figure { margin: 0; min-width: 0; } figcaption b { color: var(--text); } figcaption span { margin-left: .4rem; }
img { display: block; max-width: 100%; height: auto; margin-bottom: .5rem; border-radius: 4px;
  image-rendering: pixelated; }
.swaps { display: grid; gap: 1.75rem; margin-top: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
.swaps figure:only-child { max-width: 44rem; }
.swaps img { width: 100%; }
.pictures { display: grid; gap: 1.75rem; margin-top: 1rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); }
.pictures img { width: 100%; }
.pictures.side { grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); }
.moving img, .lettered img { image-rendering: auto; }
@media (prefers-reduced-motion: reduce) { .moving { display: none; } }
.tiles { display: grid; gap: .75rem; margin-top: 2.5rem; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); }
.tiles div { background: var(--panel); border-radius: 8px; padding: .8rem 1rem; }
.tiles b { display: block; font-size: 1.6rem; line-height: 1.2; letter-spacing: -.02em; }
.tiles span, .tiles small { display: block; font-size: .85rem; line-height: 1.35; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; margin-top: .75rem; }
th, td { padding: .45rem .6rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th:first-child { text-align: left; padding-left: 0; font-weight: 400; max-width: 34rem; }
th small { display: block; line-height: 1.4; }
th code { color: var(--soft); font-size: .78em; overflow-wrap: anywhere; }
thead th { color: var(--soft); font-size: .82rem; font-weight: 400; white-space: nowrap; }
td, .now { white-space: nowrap; } td.now { font-weight: 650; } .course { width: 80px; } .before { color: var(--soft); }
tr.group th { padding-top: 1.4rem; font-weight: 650; }
.spark { width: 80px; height: 22px; display: block; margin-left: auto; }
.charts { display: grid; gap: 1.5rem; margin-top: .75rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); }
.chart { width: 100%; height: auto; display: block; overflow: visible; }
svg text { fill: var(--soft); font-size: 11.5px; }
.axis { stroke: var(--line); fill: none; }
.curve { fill: none; stroke-width: 1.8; stroke-linejoin: round; } .raw { opacity: .28; stroke-width: 1; }
.s0 { stroke: var(--c0); } .s1 { stroke: var(--c1); } .s2 { stroke: var(--c2); }
.s3 { stroke: var(--c3); } .s4 { stroke: var(--c4); } .s5 { stroke: var(--c5); }
circle { stroke: none !important; } circle.s0 { fill: var(--c0); } circle.s1 { fill: var(--c1); }
circle.s2 { fill: var(--c2); } circle.s3 { fill: var(--c3); } circle.s4 { fill: var(--c4); }
circle.s5 { fill: var(--c5); }
circle.faint { opacity: .55; } .bar { stroke-width: 1.2; } svg text.name { fill: var(--text); }
.runs td, .runs th { text-align: left; padding-left: 0; padding-right: 1.25rem; }
.runs thead th { white-space: normal; vertical-align: bottom; min-width: 5rem; }
.runs td small { display: block; white-space: nowrap; }
.best { color: var(--c2); font-weight: 650; } .best small { color: inherit; font-weight: 400; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 0 1rem; margin: 0; padding: 0; font-size: .85rem; }
.legend i { display: inline-block; width: .7rem; height: .7rem; border-radius: 2px; margin-right: .35rem; }
.stack { display: flex; gap: 2px; height: 2rem; border-radius: 4px; overflow: hidden; }
.stack div { min-width: 3px; display: grid; place-items: center; color: #fff; font-size: .85rem; font-weight: 600; }
.b0 { background: var(--c0); } .b1 { background: var(--c1); } .b2 { background: var(--c2); }
.b3 { background: var(--c3); } .b4 { background: var(--c4); } .b5 { background: var(--c5); }
.bars { margin: .75rem 0 0; } .bars dt { font-size: .875rem; margin-top: .9rem; } .bars dd { margin: .2rem 0 0; }
details { margin-top: 1rem; border-top: 1px solid var(--line); padding: .6rem 0; }
section > details:last-child { border-bottom: 1px solid var(--line); }
summary { cursor: pointer; font-weight: 600; }
pre { background: var(--panel); padding: 1rem; border-radius: 8px; overflow-x: auto; line-height: 1.45; }
.facts { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: .25rem 1.25rem; font-size: .875rem; }
.facts dt { color: var(--soft); } .facts dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
@media (prefers-color-scheme: dark) { .stack div { color: #10131a; } }
@media (max-width: 640px) { main { padding-top: 1.5rem; } h1 { font-size: 1.6rem; } .before { display: none; }
  .facts { display: block; } .facts dd { margin-bottom: .5rem; }
  th, td { padding-right: 0; padding-left: .5rem; } .spark, .course { width: 44px; } }
@media print { :root { --page: #fff; --text: #000; --soft: #555; --line: #ccc; --panel: #f4f4f4; }
  body { font-size: 11pt; } main { max-width: none; padding: 0; } .moving { display: none; }
  figure, tr, .tiles div { break-inside: avoid; }
  h2, h3 { break-after: avoid; } .wide, pre { overflow: visible; } pre { white-space: pre-wrap; }
  .swaps { grid-template-columns: 1fr 1fr; } img, .stack, .legend i { print-color-adjust: exact; } }
"""
