//! A panic in a program that aborts on them.
#[inline(never)]
fn inner(values: &[u32], at: usize) -> u32 {
    values[at]
}
fn main() {
    let values: Vec<u32> = std::env::args().map(|argument| argument.len() as u32).collect();
    println!("{}", inner(&values, values.len() + 3));
}
