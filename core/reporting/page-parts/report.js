// Brings the report's page to life.

for (const table of document.querySelectorAll("table.sortable")) makeSortable(table);

async function openWith(id, data, Widget) {
  const root = document.getElementById(id);
  if (!root) return;
  try {
    new Widget(root, await unpackJson(data));
  } catch (error) {
    root.append(make("p", {class: "faint"}, `This browser can't show it: ${error.message}`));
  }
}

// Plotly is long to read: what is quickly there comes first.
Promise.all([
  openWith("samples", "samples-data", SampleBrowser),
  openWith("traces", "traces-data", TraceViewer),
]).then(drawChartsInSight);
