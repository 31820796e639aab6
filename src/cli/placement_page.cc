#include "cli/placement_page.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string_view>

namespace tessera::cli {
namespace {

constexpr int kWidth = 860, kHeight = 360;  // of a chart, with its margins
constexpr int kLeft = 52, kRight = 12, kTop = 12, kBottom = 40;
constexpr int kGridLines = 10;
constexpr int kLoads[] = {50, 80, 90, 95, 100, 110, 120, 130};

// Told apart by colour and, for who sees no colours, by dashes (Okabe and Ito's palette).
struct Style {
  const char* colour;
  const char* dashes;
};
constexpr Style kStyles[] = {{"#0072b2", ""},        {"#d55e00", "7 3"},     {"#009e73", "2 3"},
                             {"#cc79a7", "9 3 2 3"}, {"#e69f00", "5 5"},     {"#56b4e9", "1 4"},
                             {"#444444", "12 4"},    {"#8c6d1f", "4 2 1 2"}, {"#7f3fbf", "3 1"}};

const Style& StyleOf(std::size_t curve) { return kStyles[curve % std::size(kStyles)]; }

std::string Escaped(std::string_view text) {
  std::string safe;
  for (const char c : text) {
    switch (c) {
      case '&':
        safe += "&amp;";
        break;
      case '<':
        safe += "&lt;";
        break;
      case '>':
        safe += "&gt;";
        break;
      case '"':
        safe += "&quot;";
        break;
      case '\'':
        safe += "&#39;";
        break;
      default:
        safe += static_cast<unsigned char>(c) < 0x20 ? '?' : c;
    }
  }
  return safe;
}

std::string Number(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

struct Axis {
  double low = 0, high = 1;
  double At(double value, double from, double to) const {
    return from + (value - low) / (high - low) * (to - from);
  }
};

using Curve = std::vector<double> PlacementCurve::*;

// From where the curves begin to differ in what matters to the highest value, on whole tens.
Axis ValueAxis(const std::vector<PlacementCurve>& curves, Curve which, const Axis& loads) {
  double low = 1e9, high = 0;
  for (const PlacementCurve& curve : curves) {
    const std::vector<double>& values = curve.*which;
    for (std::size_t load = 0; load < values.size(); ++load) {
      if (values[load] < 0 || static_cast<double>(load) < loads.low) continue;
      low = std::min(low, values[load]);
      high = std::max(high, values[load]);
    }
  }
  if (low > high) return {0, 100};
  Axis axis{std::floor(low / 10) * 10, std::ceil(high / 10) * 10};
  if (axis.high <= axis.low) axis.high = axis.low + 10;
  return axis;
}

void Chart(std::string* page, const std::string& heading, const std::vector<PlacementCurve>& curves,
           Curve which, const Axis& loads, const std::string& along) {
  if (std::all_of(curves.begin(), curves.end(),
                  [&](const PlacementCurve& curve) { return (curve.*which).empty(); })) {
    return;
  }
  const Axis values = ValueAxis(curves, which, loads);
  const auto x = [&](double load) { return Number(loads.At(load, kLeft, kWidth - kRight), 1); };
  const auto y = [&](double value) { return Number(values.At(value, kHeight - kBottom, kTop), 1); };
  page->append("<h2>" + Escaped(heading) + "</h2>\n<svg viewBox=\"0 0 " + std::to_string(kWidth) +
               " " + std::to_string(kHeight) + "\" role=\"img\" aria-label=\"" + Escaped(heading) +
               "\">\n<g class=\"grid\">\n");
  for (int i = 0; i <= kGridLines; ++i) {
    const double value = values.low + (values.high - values.low) * i / kGridLines;
    page->append("<line x1=\"" + x(loads.low) + "\" x2=\"" + x(loads.high) + "\" y1=\"" + y(value) +
                 "\" y2=\"" + y(value) + "\"/><text class=\"value\" x=\"" +
                 std::to_string(kLeft - 6) + "\" y=\"" + y(value) + "\">" +
                 Number(value, values.high - values.low < kGridLines ? 1 : 0) + "</text>\n");
  }
  for (int i = 0; i <= kGridLines; ++i) {
    const double load = loads.low + (loads.high - loads.low) * i / kGridLines;
    page->append("<text class=\"load\" x=\"" + x(load) + "\" y=\"" +
                 std::to_string(kHeight - kBottom + 18) + "\">" + Number(load, 0) + "</text>\n");
  }
  page->append("<text class=\"load\" x=\"" + std::to_string(kWidth / 2) + "\" y=\"" +
               std::to_string(kHeight - 4) + "\">" + Escaped(along) + "</text>\n</g>\n");
  for (std::size_t i = 0; i < curves.size(); ++i) {
    std::string points;
    const std::vector<double>& curve = curves[i].*which;
    for (std::size_t load = 0; load < curve.size(); ++load) {
      const auto at = static_cast<double>(load);
      if (curve[load] < 0 || at < loads.low || at > loads.high) continue;
      points.append(points.empty() ? "" : " ").append(x(at) + "," + y(curve[load]));
    }
    if (points.empty()) continue;
    page->append(std::string("<polyline stroke=\"") + StyleOf(i).colour + "\" stroke-dasharray=\"" +
                 StyleOf(i).dashes + "\" points=\"" + points + "\"><title>" +
                 Escaped(curves[i].policy) + "</title></polyline>\n");
  }
  page->append("</svg>\n");
}

void Figures(std::string* page, const std::vector<PlacementCurve>& curves) {
  page->append("<h2>Allocated, percent of the cards</h2>\n<table>\n<tr><th></th><th>policy</th>");
  for (const int load : kLoads) page->append("<th>" + std::to_string(load) + " %</th>");
  page->append("</tr>\n");
  for (std::size_t i = 0; i < curves.size(); ++i) {
    page->append(
        std::string("<tr><td><svg class=\"key\" viewBox=\"0 0 36 8\"><polyline stroke=\"") +
        StyleOf(i).colour + "\" stroke-dasharray=\"" + StyleOf(i).dashes +
        "\" points=\"0,4 36,4\"/></svg></td><td>" + Escaped(curves[i].policy) + "</td>");
    for (const int load : kLoads) {
      const auto at = static_cast<std::size_t>(load);
      const bool known = at < curves[i].allocated.size() && curves[i].allocated[at] >= 0;
      page->append("<td>" + (known ? Number(curves[i].allocated[at], 2) : "-") + "</td>");
    }
    page->append("</tr>\n");
  }
  page->append("</table>\n");
}

// What arrived: the last load that a curve knows, on whole tens.
double LastLoad(const std::vector<PlacementCurve>& curves) {
  std::size_t last = 0;
  for (const PlacementCurve& curve : curves) {
    for (std::size_t load = 0; load < curve.allocated.size(); ++load) {
      if (curve.allocated[load] >= 0) last = std::max(last, load);
    }
  }
  return std::max(10.0, std::ceil(static_cast<double>(last) / 10) * 10);
}

}  // namespace

std::string PlacementPage(const std::string& title, const std::vector<PlacementCurve>& curves,
                          const std::string& along) {
  std::string page =
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
      "style-src 'unsafe-inline'\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>" +
      Escaped(title) +
      "</title>\n<style>\n"
      "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;"
      "color:#222;background:#fff}\n"
      "h1{font-size:1.3rem}h2{font-size:1.05rem;margin-top:2rem}\n"
      "svg{width:100%;height:auto}polyline{fill:none;stroke-width:2}\n"
      ".grid line{stroke:#ddd}.grid text{font-size:12px;fill:#555}\n"
      ".value{text-anchor:end;dominant-baseline:middle}.load{text-anchor:middle}\n"
      "table{border-collapse:collapse}td,th{padding:.2rem .6rem;text-align:right}\n"
      "td:nth-child(2){text-align:left}tr+tr{border-top:1px solid #ddd}.key{width:36px}\n"
      "</style>\n</head>\n<body>\n<h1>" +
      Escaped(title) + "</h1>\n";
  Figures(&page, curves);
  const double last = LastLoad(curves);
  Chart(&page, "Allocated, all the way", curves, &PlacementCurve::allocated, {0, last}, along);
  // Policies part where the fleet gets full; the last third shows by how much.
  if (last > 80) {
    Chart(&page, "Allocated, the last part", curves, &PlacementCurve::allocated, {80, last}, along);
  }
  Chart(&page, "Fragmented, percent of the cards", curves, &PlacementCurve::fragmented, {0, last},
        along);
  page.append("</body>\n</html>\n");
  return page;
}

}  // namespace tessera::cli
