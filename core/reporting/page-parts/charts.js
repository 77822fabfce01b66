// The charts: Plotly is unpacked when the first of them comes into sight, and each is drawn when it does.

const NONCE = document.currentScript.nonce;
let plotly = null;

function loadPlotly() {
  plotly = plotly || unpackText("plotly-script").then((code) => {
    const script = document.createElement("script");
    script.nonce = NONCE;
    script.textContent = code;
    document.head.append(script);
    script.remove();
  });
  return plotly;
}

async function drawChart(element) {
  await loadPlotly();
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const {data, layout} = JSON.parse(element.dataset.figure);
  layout.paper_bgcolor = layout.plot_bgcolor = "rgba(0,0,0,0)";
  layout.font = {color: colour("--ink"), family: getComputedStyle(document.body).fontFamily, size: 12};
  for (const axis of [layout.xaxis, layout.yaxis]) axis.gridcolor = axis.zerolinecolor = colour("--line");
  for (const trace of data) {
    for (const error of [trace.error_x, trace.error_y]) if (error) error.color = colour("--faint");
  }
  // A finger that scrolls the page isn't to zoom the chart.
  if (matchMedia("(pointer: coarse)").matches) layout.dragmode = false;
  await Plotly.react(element, data, layout, {responsive: true, displaylogo: false, displayModeBar: false});
  element.dataset.drawn = "yes";
}

function drawChartsInSight() {
  const charts = [...document.querySelectorAll(".chart")];
  const watcher = new IntersectionObserver((entries) => {
    for (const {isIntersecting, target} of entries) {
      if (isIntersecting) {
        watcher.unobserve(target);
        drawChart(target);
      }
    }
  }, {rootMargin: "200px"});
  for (const chart of charts) watcher.observe(chart);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    for (const chart of charts) if (chart.dataset.drawn) drawChart(chart);
  });
  addEventListener("beforeprint", () => charts.forEach(drawChart));
}
