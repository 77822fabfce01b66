// Brings a trace's own page to life.

unpackJson("traces-data").then((groups) => new TraceViewer(document.getElementById("traces"), groups));
