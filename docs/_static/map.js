// Draws the maps in the colours of the theme, and again when the theme or the width changes.
(function () {
  const small = () => window.matchMedia("(max-width: 600px)").matches;

  function colour(name, otherwise) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim() || otherwise;
  }

  function draw(place, figure) {
    const ink = colour("--pst-color-text-base", "#222");
    const line = colour("--pst-color-border", "#ccc");
    const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true };
    const layout = Object.assign({}, figure.layout, {
      autosize: true,
      height: small() ? 560 : 620,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: ink, family: "system-ui, sans-serif" },
      hoverlabel: { font: { size: 15 } },
    });
    layout.xaxis = Object.assign({}, figure.layout.xaxis, axis);
    layout.yaxis = Object.assign({}, figure.layout.yaxis, axis);
    if (small()) {
      layout.margin = { l: 40, r: 4, t: 8, b: 40 };
      layout.legend = Object.assign({}, layout.legend, { font: { size: 10 }, y: -0.25, yanchor: "top" });
      if (layout.coloraxis) {
        layout.coloraxis = Object.assign({}, layout.coloraxis);
        layout.coloraxis.colorbar = { title: { text: "valence", side: "top" }, orientation: "h", y: 1.02, thickness: 10 };
      }
    }
    const data = figure.data.map((trace) => {
      const marker = Object.assign({}, trace.marker);
      if (marker.color === "#000000") marker.color = ink; // black points would vanish on a dark page
      if (!String(marker.symbol).endsWith("-open")) marker.line = { color: ink, width: 0.6 }; // dark ones nearly
      return Object.assign({}, trace, { marker });
    });
    window.Plotly.purge(place);
    window.Plotly.newPlot(place, data, layout, { displaylogo: false, responsive: true, displayModeBar: false });
  }

  function start() {
    document.querySelectorAll(".emotion-map").forEach((place) => {
      const source = place.nextElementSibling;
      const show = () => draw(place, JSON.parse(source.textContent)); // afresh: plotly keeps what it once drew
      show();
      new MutationObserver(show).observe(document.documentElement, {
        attributes: true,
        attributeFilter: ["data-theme"],
      });
      window.matchMedia("(max-width: 600px)").addEventListener("change", show);
    });
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
