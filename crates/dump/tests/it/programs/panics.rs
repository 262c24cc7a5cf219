//! A Rust program with generics, closures and a trait object.
use std::collections::BTreeMap;

trait Shape {
    fn area(&self) -> f64;
}

struct Square(f64);

impl Shape for Square {
    fn area(&self) -> f64 {
        if self.0 < 0.0 {
            panic!("a side of {}", self.0);
        }
        self.0 * self.0
    }
}

#[inline(never)]
fn sum<T: AsRef<str>>(words: &[T]) -> f64 {
    let shapes: Vec<Box<dyn Shape>> =
        words.iter().filter_map(|word| word.as_ref().parse().ok()).map(|side| Box::new(Square(side)) as Box<dyn Shape>).collect();
    let by_area: BTreeMap<u64, usize> = shapes.iter().enumerate().map(|(n, shape)| (shape.area() as u64, n)).collect();
    by_area.into_iter().map(|(area, n)| area as f64 * n as f64).sum()
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    println!("{}", sum(&words));
}
