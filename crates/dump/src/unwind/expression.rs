//! DWARF's expressions: small programs that say where something is. They come out of foreign files, so their steps count.

use super::cfi::Slice;
use super::fuel::Fuel;
use super::registers::Registers;
use crate::memory::Memory;
use gimli::{Encoding, Evaluation, EvaluationResult, Expression, Location, Reader, Value, ValueType};

/// Steps of one expression.
const MAX_STEPS: u32 = 1000;
/// What an expression costs before its first step.
const COST: u64 = 200;
/// How often an expression may ask for something.
const MAX_QUESTIONS: usize = 200;

/// Returns what an expression comes to, begun with `initial` on its stack if there is one.
pub(super) fn evaluate<'a, M: Memory + ?Sized>(
    expression: Slice<'a>,
    encoding: Encoding,
    initial: Option<u64>,
    around: (&Registers, &M),
    fuel: &mut Fuel,
) -> Option<u64> {
    let (registers, memory) = around;
    fuel.spend(COST)?;
    let mut evaluation: Evaluation<Slice<'a>> = Expression(expression).evaluation(encoding);
    evaluation.set_max_iterations(MAX_STEPS);
    if let Some(initial) = initial {
        evaluation.set_initial_value(initial);
    }
    let mut asked = evaluation.evaluate().ok()?;
    for _ in 0..MAX_QUESTIONS {
        fuel.spend(COST)?;
        asked = match asked {
            EvaluationResult::Complete => return place(&evaluation),
            EvaluationResult::RequiresRegister { register, .. } => {
                evaluation.resume_with_register(Value::Generic(registers.get(register.0)?)).ok()?
            }
            EvaluationResult::RequiresMemory { address, size, .. } => {
                let value = read_number(memory, address, size, expression.endian() == gimli::RunTimeEndian::Big)?;
                evaluation.resume_with_memory(Value::Generic(value)).ok()?
            }
            EvaluationResult::RequiresCallFrameCfa => evaluation.resume_with_call_frame_cfa(initial?).ok()?,
            EvaluationResult::RequiresBaseType(_) => evaluation.resume_with_base_type(ValueType::Generic).ok()?,
            _ => return None,
        };
    }
    None
}

/// Returns the one place or value that a finished expression names.
fn place(evaluation: &Evaluation<Slice<'_>>) -> Option<u64> {
    match evaluation.as_result() {
        [piece] => match piece.location {
            Location::Address { address } => Some(address),
            Location::Value { value } => value.to_u64(u64::MAX).ok(),
            _ => None,
        },
        _ => None,
    }
}

/// Reads a number of up to eight bytes.
pub(super) fn read_number<M: Memory + ?Sized>(memory: &M, address: u64, size: u8, is_big: bool) -> Option<u64> {
    let size = usize::from(size);
    let mut bytes = [0; 8];
    let part = bytes.get_mut(..size)?;
    if memory.read(address, part) != size {
        return None;
    }
    if is_big {
        part.reverse();
    }
    Some(u64::from_le_bytes(bytes))
}
