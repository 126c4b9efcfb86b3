//! The plots: lines by size, and bars by server, as SVG.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;

const COLOURS: [RGBColor; 12] = [
    RGBColor(200, 30, 30),
    RGBColor(230, 140, 20),
    RGBColor(30, 90, 200),
    RGBColor(20, 140, 120),
    RGBColor(120, 60, 180),
    RGBColor(90, 90, 90),
    RGBColor(60, 160, 60),
    RGBColor(180, 120, 90),
    RGBColor(0, 170, 210),
    RGBColor(210, 80, 160),
    RGBColor(140, 140, 30),
    RGBColor(0, 0, 0),
];

/// A name, and a figure at each place of the horizontal axis where there is one.
pub type Series = (String, Vec<(usize, f64)>);

/// Lines over named places, evenly spaced.
pub fn lines(
    path: &Path,
    title: &str,
    unit: &str,
    places: &[String],
    series: &[Series],
) -> Result<(), Box<dyn Error>> {
    let figures = series
        .iter()
        .flat_map(|(_, points)| points.iter().map(|(_, y)| *y));
    let top = figures.fold(0.0, f64::max) * 1.08;
    if places.is_empty() || top <= 0.0 {
        return Ok(());
    }
    let area = SVGBackend::new(path, (960, 540)).into_drawing_area();
    area.fill(&WHITE)?;
    let right = (places.len() - 1) as f64 + 0.02;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(56)
        .build_cartesian_2d(-0.02..right.max(0.5), 0.0..top)?;
    let label = |x: &f64| {
        let near = (x - x.round()).abs() < 0.01;
        let place = near.then(|| places.get(x.round().max(0.0) as usize));
        place.flatten().cloned().unwrap_or_default()
    };
    chart
        .configure_mesh()
        .x_labels(places.len() * 2)
        .x_label_formatter(&label)
        .y_desc(unit)
        .light_line_style(WHITE)
        .draw()?;
    for (at, (name, points)) in series.iter().enumerate() {
        let style = COLOURS[at % COLOURS.len()].stroke_width(if at < 2 { 3 } else { 1 });
        let points: Vec<(f64, f64)> = points.iter().map(|(x, y)| (*x as f64, *y)).collect();
        chart
            .draw_series(LineSeries::new(points, style))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    area.present()?;
    Ok(())
}

/// A horizontal bar for each name.
pub fn bars(
    path: &Path,
    title: &str,
    unit: &str,
    bars: &[(String, f64)],
) -> Result<(), Box<dyn Error>> {
    let right = bars.iter().map(|(_, x)| *x).fold(0.0, f64::max) * 1.12;
    if right <= 0.0 {
        return Ok(());
    }
    let height = 110 + 26 * bars.len() as u32;
    let area = SVGBackend::new(path, (960, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(220)
        .build_cartesian_2d(0.0..right, (bars.len() as f64)..0.0)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .y_labels(0)
        .x_desc(unit)
        .light_line_style(WHITE)
        .draw()?;
    chart.draw_series(bars.iter().enumerate().map(|(at, (name, x))| {
        let ours =
            name.contains("spliceport") || name.starts_with("ring") || name.starts_with("emulated");
        let colour = if ours { COLOURS[0] } else { COLOURS[2] };
        let top = at as f64;
        Rectangle::new([(0.0, top + 0.15), (*x, top + 0.85)], colour.filled())
    }))?;
    chart.draw_series(bars.iter().enumerate().map(|(at, (_, x))| {
        let place = (*x + right * 0.005, at as f64 + 0.3);
        Text::new(format!("{x:.2}"), place, ("sans-serif", 13))
    }))?;
    for (at, (name, _)) in bars.iter().enumerate() {
        let (_, y) = chart.backend_coord(&(0.0, at as f64 + 0.3));
        area.draw(&Text::new(name.clone(), (16, y), ("sans-serif", 13)))?;
    }
    area.present()?;
    Ok(())
}
