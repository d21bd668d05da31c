//! The plots, as SVG: one of all figures relative to their targets, and one for each target that has peers or curves.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::figures::{Figure, number};

type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

const GOOD: RGBColor = RGBColor(46, 125, 80);
const BAD: RGBColor = RGBColor(192, 57, 43);
const PEER: RGBColor = RGBColor(140, 140, 150);
const CURVES: [RGBColor; 4] = [GOOD, RGBColor(52, 101, 164), RGBColor(204, 120, 0), RGBColor(117, 80, 123)];
const WIDTH: i32 = 960;
const BAR: i32 = 26;
const TEXT: i32 = 430;

/// Draws everything into `dir`; the targets that have a plot of their own.
pub fn draw_all(figures: &[Figure], dir: &Path) -> Vec<u8> {
    let bounded: Vec<&Figure> = figures.iter().filter(|figure| figure.bound.is_some()).collect();
    draw(dir, "overview.svg", bounded.len(), |canvas| overview(canvas, &bounded));
    let mut drawn = Vec::new();
    for target in 1..=15 {
        let of_target: Vec<&Figure> = figures.iter().filter(|figure| figure.target == target).collect();
        let name = format!("target-{target:02}.svg");
        if of_target.iter().any(|figure| !figure.series.is_empty()) {
            let all: Vec<_> = of_target.iter().flat_map(|figure| &figure.series).collect();
            draw(dir, &name, 13, |canvas| curves(canvas, &all));
        } else if of_target.iter().any(|figure| !figure.peers.is_empty()) {
            let rows = of_target.iter().map(|figure| 2 + figure.peers.len()).sum();
            draw(dir, &name, rows, |canvas| bars(canvas, &of_target));
        } else {
            continue;
        }
        drawn.push(target);
    }
    drawn
}

fn draw(dir: &Path, name: &str, rows: usize, content: impl FnOnce(&Canvas<'_>) -> Drawn) {
    let path = dir.join(name);
    let height = 50 + BAR as u32 * rows as u32;
    let canvas = SVGBackend::new(&path, (WIDTH as u32, height)).into_drawing_area();
    let drawn = canvas.fill(&WHITE).and_then(|()| content(&canvas)).and_then(|()| canvas.present());
    drawn.unwrap_or_else(|e| panic!("cannot draw {}: {e}", path.display()));
}

fn text(canvas: &Canvas<'_>, words: &str, at: (i32, i32), colour: RGBColor) -> Drawn {
    canvas.draw(&Text::new(words.to_owned(), at, ("sans-serif", 13).into_font().color(&colour)))
}

fn bar(canvas: &Canvas<'_>, row: i32, length: i32, colour: RGBColor) -> Drawn {
    let top = 30 + row * BAR;
    canvas.draw(&Rectangle::new([(TEXT, top), (TEXT + length.max(1), top + BAR - 8)], colour.filled()))
}

/// How far each figure is from its target, on a logarithmic scale; what ends left of the line is better than it.
fn overview(canvas: &Canvas<'_>, figures: &[&Figure]) -> Drawn {
    let middle = TEXT + 200;
    text(canvas, "better than the target", (TEXT, 8), GOOD)?;
    text(canvas, "worse", (middle + 10, 8), BAD)?;
    for (row, figure) in (0..).zip(figures) {
        let Some(bound) = &figure.bound else { continue };
        let cost = if bound.at_least { bound.bound / bound.figure } else { bound.figure / bound.bound };
        let reach = (cost.max(1e-6).log2() * 50.0).clamp(-200.0, 200.0) as i32;
        let (left, right) = (middle.min(middle + reach), middle.max(middle + reach));
        let (top, colour) = (30 + row * BAR, if bound.met() { GOOD } else { BAD });
        canvas.draw(&Rectangle::new([(left, top), (right.max(left + 1), top + BAR - 8)], colour.filled()))?;
        text(canvas, &format!("{:>2}  {}", figure.target, figure.what), (8, top + 3), BLACK)?;
        text(canvas, &format!("{} {}", number(bound.figure), bound.of), (middle + 210, top + 3), colour)?;
    }
    let foot = 30 + figures.len() as i32 * BAR;
    canvas.draw(&PathElement::new(vec![(middle, 26), (middle, foot)], BLACK))?;
    text(canvas, "each 50 px: a factor of 2; bars end at a factor of 16", (TEXT, foot + 2), PEER)
}

/// Ours and the peers' values of each figure; a figure's longest bar takes the width.
fn bars(canvas: &Canvas<'_>, figures: &[&Figure]) -> Drawn {
    let mut row = 0;
    for figure in figures {
        text(canvas, &format!("{} ({})", figure.what, figure.unit), (8, 33 + row * BAR), BLACK)?;
        row += 1;
        let all = std::iter::once(("orset", figure.ours)).chain(figure.peers.iter().map(|(n, v)| (n.as_str(), *v)));
        let most = all.clone().map(|(_, value)| value).fold(f64::MIN_POSITIVE, f64::max);
        for (name, value) in all {
            let length = (value / most * f64::from(WIDTH - TEXT - 120)) as i32;
            bar(canvas, row, length, if name == "orset" { GOOD } else { PEER })?;
            text(canvas, name, (40, 33 + row * BAR), BLACK)?;
            text(canvas, &number(value), (TEXT + length + 6, 33 + row * BAR), BLACK)?;
            row += 1;
        }
    }
    Ok(())
}

/// All curves of a target on one pair of axes.
fn curves(canvas: &Canvas<'_>, all: &[&(String, Vec<(f64, f64)>)]) -> Drawn {
    let points = || all.iter().flat_map(|(_, points)| points.iter().copied());
    let most = |of: fn((f64, f64)) -> f64| points().map(of).fold(f64::MIN_POSITIVE, f64::max);
    let (x, y) = (most(|(x, _)| x), most(|(_, y)| y));
    let (left, top, right, bottom) = (60, 20, WIDTH - 220, 330);
    let place = |(px, py): (f64, f64)| {
        (left + (px / x * f64::from(right - left)) as i32, bottom - (py / y * f64::from(bottom - top)) as i32)
    };
    canvas.draw(&PathElement::new(vec![(left, top), (left, bottom), (right, bottom)], BLACK))?;
    for part in [0.0, 0.25, 0.5, 0.75, 1.0] {
        text(canvas, &number(x * part), (place((x * part, 0.0)).0 - 10, bottom + 6), BLACK)?;
        text(canvas, &number(y * part), (8, place((0.0, y * part)).1 - 6), BLACK)?;
    }
    for ((n, (name, points)), colour) in all.iter().enumerate().zip(CURVES.iter().cycle()) {
        canvas.draw(&PathElement::new(points.iter().map(|p| place(*p)).collect::<Vec<_>>(), colour.stroke_width(2)))?;
        text(canvas, name, (right + 12, top + 20 * n as i32), *colour)?;
    }
    Ok(())
}
