"""How the page for people looks."""

STYLE = """
:root { color-scheme: light dark; --ground: #f5f4f1; --card: #fff; --ink: #1d1d20; --soft: #6a6a70;
  --line: #e3e1db; --good: #1f7a4d; --bad: #b3372f; --busy: #9a6a00; }
@media (prefers-color-scheme: dark) { :root { --ground: #17181a; --card: #222326; --ink: #ececee;
  --soft: #a0a0a8; --line: #34353a; --good: #5cc48f; --bad: #f08a80; --busy: #e2b455; } }
* { box-sizing: border-box; margin: 0; }
body { font: 15px/1.45 system-ui, sans-serif; background: var(--ground); color: var(--ink);
  max-width: 1320px; margin: 0 auto; padding: 24px 20px 40px; }
h1 { font-size: 22px; font-weight: 650; }
header p, .more, .empty { color: var(--soft); }
header p { overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(128px, 1fr)); gap: 1px; margin: 18px 0 22px;
  background: var(--line); border: 1px solid var(--line); border-radius: 10px; overflow: hidden; }
dl div { background: var(--card); padding: 10px 14px; }
dt { color: var(--soft); font-size: 12px; }
dd { margin: 0; font-size: 19px; font-weight: 600; font-variant-numeric: tabular-nums; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(280px, 100%), 1fr)); gap: 18px; }
article { background: var(--card); border: 1px solid var(--line); border-radius: 12px; overflow: hidden;
  display: flex; flex-direction: column; gap: 6px; padding-bottom: 12px; }
article p { padding: 0 14px; }
.pictures { display: grid; gap: 2px; height: 220px; background: var(--line); margin-bottom: 6px; }
.pictures.n2, .pictures.n3, .pictures.n4 { grid-template-columns: 1fr 1fr; }
.pictures.n3, .pictures.n4 { grid-template-rows: 1fr 1fr; }
.pictures a { display: block; min-width: 0; min-height: 0; }
.pictures img { width: 100%; height: 100%; object-fit: contain; min-width: 0; min-height: 0; }
.pictures.none { place-items: center; color: var(--soft); }
@media (max-width: 640px) { body { padding: 16px 12px 32px; } .pictures.none { height: 72px; } }
.status { display: flex; justify-content: space-between; font-size: 13px; }
.status b { font-weight: 600; color: var(--busy); }
.completed .status b { color: var(--good); }
.failed .status b, .failure { color: var(--bad); }
.status time, .facts { color: var(--soft); font-size: 13px; font-variant-numeric: tabular-nums; }
.failure { font-size: 13px; }
.prompt { overflow-wrap: anywhere; white-space: pre-line; max-height: 9em; overflow-y: auto; }
.facts { overflow-wrap: anywhere; }
.id { color: var(--soft); font: 11px/1.4 ui-monospace, monospace; overflow-wrap: anywhere; user-select: all;
  margin-top: auto; }
a { color: inherit; }
.filter { display: flex; flex-wrap: wrap; gap: 8px; align-items: center; margin-bottom: 16px; font-size: 14px; }
.filter input, .filter select, .filter button { font: inherit; color: inherit; background: var(--card);
  border: 1px solid var(--line); border-radius: 6px; padding: 5px 9px; }
.filter input { flex: 1 1 220px; max-width: 420px; }
summary { cursor: pointer; }
details { margin-top: 24px; color: var(--soft); font-size: 13px; }
details pre { margin-top: 8px; overflow-x: auto; font: 12px/1.5 ui-monospace, monospace; }
.more { margin-top: 16px; }
.empty { grid-column: 1 / -1; padding: 60px 0; text-align: center; }
"""
