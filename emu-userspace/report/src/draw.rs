//! Drawing charts as SVG.
use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use super::{
    ReportError,
    chart::{Chart, ChartKind, Point, Series},
    scale::{Scale, number},
};

/// Width and height of the drawing.
const SIZE: (u32, u32) = (860, 440);
/// The first font is the one of our own PNG files, the others are for browsers.
const FONT: &str = "DejaVu Sans, Verdana, Helvetica, sans-serif";
/// Colours that most colour-blind readers can distinguish (Okabe and Ito); each series also
/// has its own marker, for prints without colours.
const COLORS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(0, 0, 0),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(127, 127, 127),
];
/// Ends and middle of a colour gradient, for more series than the palette has.
const RAMP: [(f64, f64, f64); 3] = [
    (68.0, 1.0, 84.0),
    (33.0, 145.0, 140.0),
    (235.0, 170.0, 20.0),
];
/// Colour of text and axes, dark enough for paper.
const INK: RGBColor = RGBColor(40, 40, 40);
const GRID: RGBColor = RGBColor(225, 225, 225);
/// Number of legend lines that fit into the drawing.
const LEGEND_LINES: usize = 20;
/// A line with more points has no markers.
const MARKED_POINTS: usize = 40;

type Backend<'a> = SVGBackend<'a>;
type Area<'a> = DrawingArea<Backend<'a>, Shift>;
type Plot<'a, 'b> = ChartContext<'b, Backend<'a>, Cartesian2d<Scale, Scale>>;
type Canvas<'a> = DrawingArea<Backend<'a>, Cartesian2d<Scale, Scale>>;

fn message(error: impl std::error::Error) -> String {
    error.to_string()
}

impl Chart {
    /// Draws the chart, dark on white, so that it is readable on paper and on a dark page.
    ///
    /// # Errors
    /// [`ReportError::Draw`] if the drawing library refuses the chart.
    pub fn svg(&self) -> Result<String, ReportError> {
        svg(self).map_err(|message| ReportError::Draw {
            chart: self.title().to_owned(),
            message,
        })
    }
}

/// The drawing, or the error message of the drawing library.
fn svg(chart: &Chart) -> Result<String, String> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        draw(chart, &root)?;
        root.present().map_err(message)?;
    }
    Ok(text)
}

fn draw(chart: &Chart, root: &Area) -> Result<(), String> {
    root.fill(&WHITE).map_err(message)?;
    let title = font(16).style(FontStyle::Bold).color(&INK);
    root.draw(&Text::new(chart.title.clone(), (18, 14), title))
        .map_err(message)?;
    let legend = legend(chart);
    let longest = legend.iter().map(|(name, ..)| name.chars().count()).max();
    let legend_width = longest.map_or(16, |n| (n as i32 * 7 + 62).clamp(90, 300));
    let area = root.margin(42, 8, 12, legend_width);
    let points = || chart.series.iter().flat_map(|s| &s.points);
    let spread = |p: &Point| p.spread.map_or([p.y; 3], |(low, high)| [low, p.y, high]);
    let marks = chart.marks.iter().map(|(_, y)| *y);
    let x = Scale::new(&chart.x, points().map(|p| p.x));
    let y = Scale::new(&chart.y, points().flat_map(spread).chain(marks));
    let mut plot = ChartBuilder::on(&area)
        .x_label_area_size(46)
        .y_label_area_size(72)
        .build_cartesian_2d(x.clone(), y.clone())
        .map_err(message)?;
    mesh(chart, &mut plot)?;
    for (i, name) in chart.x.categories.iter().enumerate() {
        let (at, bottom) = (
            plot.plotting_area(),
            plot.plotting_area().get_pixel_range().1.end,
        );
        let x = at.map_coordinate(&(i as f64, y.base())).0;
        let level = if chart.x.categories.len() > 5 {
            i as i32 % 2
        } else {
            0
        };
        let style = font(12).color(&INK).pos(Pos::new(HPos::Center, VPos::Top));
        root.draw(&Text::new(
            name.clone(),
            (x, bottom + 8 + level * 15),
            style,
        ))
        .map_err(message)?;
    }
    let frame = Frame { x, y, chart };
    for (i, series) in chart.series.iter().enumerate() {
        frame.draw(plot.plotting_area(), i, series)?;
    }
    for (name, y) in &chart.marks {
        mark(root, &plot, name, *y)?;
    }
    let left = SIZE.0 as i32 - legend_width + 8;
    draw_legend(root, &legend, left)
}

fn font(size: i32) -> FontDesc<'static> {
    FontDesc::from((FONT, size))
}

fn mesh(chart: &Chart, plot: &mut Plot) -> Result<(), String> {
    let categories = &chart.x.categories;
    let x_label = |value: &f64| {
        let name = categories.get(value.round().max(0.0) as usize);
        match name {
            // Categories have labels of their own, on two levels, because names are longer
            // than numbers.
            Some(_) => String::new(),
            None => number(*value),
        }
    };
    plot.configure_mesh()
        .x_desc(chart.x.label.clone())
        .y_desc(chart.y.label.clone())
        .axis_desc_style(font(13).color(&INK))
        .label_style(font(12).color(&INK))
        .axis_style(INK)
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .x_label_formatter(&x_label)
        .y_label_formatter(&|value| number(*value))
        .draw()
        .map_err(message)
}

/// An entry of the legend: name, colour, marker and kind.
type Entry = (String, RGBColor, usize, ChartKind);

/// Entries of the legend; empty if the chart has only one series.
fn legend(chart: &Chart) -> Vec<Entry> {
    let named = chart.series.iter().enumerate();
    let named = named.filter(|(_, s)| !s.name.is_empty());
    let all: Vec<Entry> = named
        .map(|(i, s)| {
            let plain = s.kind == ChartKind::Line && s.points.len() > MARKED_POINTS;
            let kind = if plain { ChartKind::Step } else { s.kind };
            (s.name.clone(), color(chart, i), group(chart, i), kind)
        })
        .collect();
    if all.len() < 2 && chart.series.len() < 2 {
        return Vec::new();
    }
    let (n, mut shown) = (all.len(), all);
    if n > LEGEND_LINES {
        shown.truncate(LEGEND_LINES - 1);
        let rest = format!("… {} more", n - LEGEND_LINES + 1);
        shown.push((rest, WHITE, 0, ChartKind::Step));
    }
    shown
}

fn draw_legend(root: &Area, legend: &[Entry], left: i32) -> Result<(), String> {
    for (i, (name, color, shape, kind)) in legend.iter().enumerate() {
        let y = 52 + i as i32 * 19;
        let style = color.filled();
        match kind {
            ChartKind::Bars => root.draw(&Rectangle::new(
                [(left + 6, y - 5), (left + 18, y + 6)],
                style,
            )),
            _ => {
                let ends = vec![(left, y), (left + 24, y)];
                if *kind != ChartKind::Points {
                    root.draw(&PathElement::new(ends, color.stroke_width(2)))
                        .map_err(message)?;
                }
                if *kind == ChartKind::Step {
                    Ok(())
                } else {
                    root.draw(
                        &(EmptyElement::at((left + 12, y)) + Polygon::new(marker(*shape), style)),
                    )
                }
            }
        }
        .map_err(message)?;
        let at = Pos::new(HPos::Left, VPos::Center);
        let style = font(12).color(&INK).pos(at);
        root.draw(&Text::new(name.clone(), (left + 30, y), style))
            .map_err(message)?;
    }
    Ok(())
}

/// Draws a dashed line over the whole width, with its label above the left end.
fn mark(root: &Area, plot: &Plot, name: &str, y: f64) -> Result<(), String> {
    let (columns, rows) = plot.plotting_area().get_pixel_range();
    let scale = plot.y_range();
    let at = plot
        .plotting_area()
        .map_coordinate(&(plot.x_range().start, y))
        .1;
    if !(scale.start..=scale.end).contains(&y) || !rows.contains(&at) {
        return Ok(());
    }
    for from in columns.clone().step_by(10) {
        let ends = vec![(from, at), ((from + 6).min(columns.end), at)];
        root.draw(&PathElement::new(ends, INK.stroke_width(1)))
            .map_err(message)?;
    }
    let style = font(12).color(&INK).pos(Pos::new(HPos::Left, VPos::Bottom));
    root.draw(&Text::new(
        name.to_owned(),
        (columns.start + 8, at - 4),
        style,
    ))
    .map_err(message)
}

/// Index of a series' colour and marker; series without a name share that of the previous
/// one.
fn group(chart: &Chart, series: usize) -> usize {
    let before = chart.series.iter().take(series + 1);
    before
        .filter(|s| !s.name.is_empty())
        .count()
        .saturating_sub(1)
}

fn color(chart: &Chart, series: usize) -> RGBColor {
    let named = chart.series.iter().filter(|s| !s.name.is_empty()).count();
    if named == 0 && chart.series.len() > 1 {
        return ramp(series as f64 / (chart.series.len() - 1) as f64);
    }
    let group = group(chart, series);
    match COLORS.get(group) {
        Some(color) if named <= COLORS.len() => *color,
        _ => ramp(group as f64 / (named.max(2) - 1) as f64),
    }
}

fn ramp(share: f64) -> RGBColor {
    let [low, middle, high] = RAMP;
    let (from, to, part) = if share < 0.5 {
        (low, middle, share * 2.0)
    } else {
        (middle, high, share * 2.0 - 1.0)
    };
    let mix = |a: f64, b: f64| (a + (b - a) * part).round() as u8;
    RGBColor(mix(from.0, to.0), mix(from.1, to.1), mix(from.2, to.2))
}

/// Offsets of a marker's corners, in pixels.
fn marker(shape: usize) -> Vec<(i32, i32)> {
    match shape % 5 {
        0 => vec![
            (-2, -4),
            (2, -4),
            (4, -2),
            (4, 2),
            (2, 4),
            (-2, 4),
            (-4, 2),
            (-4, -2),
        ],
        1 => vec![(-4, -4), (4, -4), (4, 4), (-4, 4)],
        2 => vec![(0, -5), (5, 4), (-5, 4)],
        3 => vec![(0, -5), (5, 0), (0, 5), (-5, 0)],
        _ => vec![(0, 5), (5, -4), (-5, -4)],
    }
}

/// The axes of a chart and their scales.
struct Frame<'c> {
    x: Scale,
    y: Scale,
    chart: &'c Chart,
}

impl Frame<'_> {
    fn draw(&self, canvas: &Canvas, number: usize, series: &Series) -> Result<(), String> {
        let color = color(self.chart, number);
        for point in &series.points {
            self.whisker(canvas, point, color)?;
        }
        let places: Vec<(f64, f64)> = series
            .points
            .iter()
            .filter_map(|p| Some((self.x.place(p.x)?, self.y.place(p.y)?)))
            .collect();
        let width = if series.name.is_empty() { 1 } else { 2 };
        let path = |points| {
            let path = PathElement::new(points, color.stroke_width(width));
            canvas.draw(&path).map_err(message)
        };
        match series.kind {
            ChartKind::Bars => return self.bars(canvas, number, &places, color),
            ChartKind::Line => path(places.clone())?,
            ChartKind::Step => path(steps(&places))?,
            ChartKind::Points => {}
        }
        let few = places.len() <= MARKED_POINTS && !series.name.is_empty();
        if series.kind == ChartKind::Points || (series.kind == ChartKind::Line && few) {
            let shape = marker(group(self.chart, number));
            for place in places {
                let polygon = Polygon::new(shape.clone(), color.filled());
                let marker = EmptyElement::at(place) + polygon;
                canvas.draw(&marker).map_err(message)?;
            }
        }
        Ok(())
    }

    fn whisker(&self, canvas: &Canvas, point: &Point, color: RGBColor) -> Result<(), String> {
        let ends = point.spread.and_then(|(low, high)| {
            let x = self.x.place(point.x)?;
            Some(vec![(x, self.y.place(low)?), (x, self.y.place(high)?)])
        });
        let Some(ends) = ends else { return Ok(()) };
        let whisker = PathElement::new(ends, color.mix(0.7).stroke_width(1));
        canvas.draw(&whisker).map_err(message)
    }

    /// Draws one bar series; all bar series share the width of a category.
    fn bars(
        &self,
        canvas: &Canvas,
        number: usize,
        places: &[(f64, f64)],
        color: RGBColor,
    ) -> Result<(), String> {
        let bars = |s: &&Series| s.kind == ChartKind::Bars;
        let all = self.chart.series.iter().filter(bars).count() as f64;
        let before = self.chart.series.iter().take(number).filter(bars).count() as f64;
        let (width, base) = (0.8 / all, self.y.base());
        for (x, y) in places {
            let left = x - 0.4 + before * width;
            let corners = [(left, base), (left + width * 0.94, *y)];
            let bar = Rectangle::new(corners, color.filled());
            canvas.draw(&bar).map_err(message)?;
        }
        Ok(())
    }
}

/// Corners of a step curve, whose values hold until the next point.
fn steps(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut corners = Vec::with_capacity(points.len() * 2);
    let mut last: Option<f64> = None;
    for (x, y) in points {
        corners.extend(last.map(|before| (*x, before)));
        corners.push((*x, *y));
        last = Some(*y);
    }
    corners
}
