"""The page at `/`, on which a person watches drafts being accepted: files that a browser loads as they are.

It promises to ask nobody but this server, and to need nothing that another client could not ask for: it reads the
cycles that `report_cycles` tells. Read `index.html` first, then `main.js`, which holds its parts together: `server.js`
asks, `run.js` is one answer as it comes, `answer.js`, `text.js`, `strip.js` and `panels.js` show it.
"""
