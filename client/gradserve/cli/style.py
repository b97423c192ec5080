"""How the page looks."""

CSS = """
:root {
  color-scheme: light dark;
  --paper: #f6f7f9; --card: #fff; --ink: #1c2330; --soft: #667085; --line: #e3e7ee; --accent: #3b6ef5;
  --warn: #92610a; --warn-paper: #fdf3da;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #0f1218; --card: #181c25; --ink: #e8ebf1; --soft: #98a2b3; --line: #2a303c; --accent: #7aa2ff;
    --warn: #f2c56b; --warn-paper: #33291299;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
header, main { max-width: 1500px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 40px; }
h1 { margin: 0; font-size: 30px; letter-spacing: -.02em; }
header p, .lead { margin: 6px 0 0; color: var(--soft); max-width: 75ch; }
nav { display: flex; flex-wrap: wrap; gap: 8px; margin-top: 16px; }
nav a { padding: 3px 12px; border: 1px solid var(--line); border-radius: 99px; background: var(--card);
  color: var(--ink); text-decoration: none; }
nav a:hover { border-color: var(--accent); color: var(--accent); }
h2 { margin: 48px 0 0; font-size: 22px; letter-spacing: -.01em; }
article { display: grid; grid-template-columns: 270px 1fr; gap: 20px; margin: 20px 0; align-items: start; }
@media (max-width: 800px) { article { grid-template-columns: 1fr; } }
aside, figure { margin: 0; padding: 12px; background: var(--card); border: 1px solid var(--line); border-radius: 12px; }
aside { position: sticky; top: 12px; }
@media (max-width: 800px) { aside { position: static; } }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 14px; }
.pictures { display: flex; gap: 6px; }
.pictures img { min-width: 0; width: 0; height: auto; border-radius: 6px; display: block; }
img.crisp { image-rendering: pixelated; }
h3, h4 { margin: 10px 0 2px; font-size: 15px; }
h4 { display: flex; justify-content: space-between; gap: 12px; font-family: ui-monospace, monospace; font-size: 14px; }
h4 b { font-weight: 500; color: var(--soft); text-align: right; }
table { width: 100%; border-collapse: collapse; font-size: 13px; }
td { padding: 1px 0; }
td:last-child { text-align: right; color: var(--soft); padding-left: 8px; white-space: nowrap; }
.bar { width: 34%; padding-left: 8px; }
.bar i { display: block; height: 8px; min-width: 1px; border-radius: 4px; background: var(--accent); }
.sheet { width: auto; margin: 16px 0; background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  border-collapse: separate; border-spacing: 0; padding: 8px; font-size: 14px; }
.sheet th { text-align: left; font-weight: 500; color: var(--soft); }
.sheet th, .sheet td { padding: 3px 12px; }
.sheet td:last-child { text-align: left; white-space: normal; }
.share .bar { display: inline-block; width: 10em; margin-right: 10px; padding: 0; vertical-align: middle; }
.facts { display: flex; flex-wrap: wrap; gap: 0 14px; margin: 4px 0 0; color: var(--soft); font-size: 12.5px; }
.warning, .refusal { margin: 8px 0 0; padding: 4px 10px; border-radius: 6px; font-size: 12.5px; }
.warning { background: var(--warn-paper); color: var(--warn); }
.refusal { border: 1px dashed var(--line); color: var(--soft); }
"""
