//! Closed loads: how operations are dealt out to callers, and how callers run them.

use crate::stats::Latencies;
use anyhow::{Context, Result};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

/// How many of `operations` each of `callers` makes: as even as can be, the counts differ by at most one (T-B1).
///
/// # Panics
/// Without callers.
#[must_use]
pub fn distribution(operations: usize, callers: usize) -> Vec<usize> {
    assert!(callers > 0, "a load needs at least one caller");
    let (each, rest) = (operations / callers, operations % callers);
    (0..callers)
        .map(|caller| each + usize::from(caller < rest))
        .collect()
}

/// Deals prepared inputs out to callers, in order and evenly (T-B1: inputs exist before the clock starts).
#[must_use]
pub fn deal<T>(inputs: Vec<T>, callers: usize) -> Vec<Vec<T>> {
    let counts = distribution(inputs.len(), callers);
    let mut inputs = inputs.into_iter();
    counts
        .into_iter()
        .map(|count| inputs.by_ref().take(count).collect())
        .collect()
}

/// What a load took.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Operations done.
    pub operations: u64,
    /// From the moment all callers were ready until the last one was done.
    pub elapsed: Duration,
    /// Latency of each operation.
    pub latencies: Latencies,
}

impl Measured {
    /// Operations per second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

/// Runs one caller per element of `inputs`, each making its operations one after the other. The clock starts when all
/// are ready and stops when the last is done; the first failure fails the load.
///
/// # Errors
/// That of the operation that failed.
pub async fn closed<T, C, F>(
    inputs: Vec<Vec<T>>,
    context: impl Fn(usize) -> C,
    operation: impl Fn(C, T) -> F + Clone + Send + Sync + 'static,
) -> Result<Measured>
where
    T: Send + 'static,
    C: Clone + Send + 'static,
    F: Future<Output = Result<()>> + Send,
{
    let ready = Arc::new(Barrier::new(inputs.len() + 1));
    let mut callers = JoinSet::new();
    for (caller, inputs) in inputs.into_iter().enumerate() {
        let (ready, context, operation) = (Arc::clone(&ready), context(caller), operation.clone());
        callers.spawn(async move {
            // A histogram of its own would touch a quarter MiB of fresh memory per caller while it is measured.
            let mut took = Vec::with_capacity(inputs.len());
            ready.wait().await;
            for input in inputs {
                let start = Instant::now();
                operation(context.clone(), input).await?;
                took.push(start.elapsed());
            }
            anyhow::Ok(took)
        });
    }
    ready.wait().await;
    let start = Instant::now();
    let mut all = Vec::with_capacity(callers.len());
    while let Some(caller) = callers.join_next().await {
        all.push(caller.context("a caller panicked")??);
    }
    let elapsed = start.elapsed();
    let mut latencies = Latencies::default();
    all.into_iter()
        .flatten()
        .for_each(|took| latencies.record(took));
    Ok(Measured {
        operations: latencies.count(),
        elapsed,
        latencies,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// T-B1: for 1, 3 and 64 callers the counts differ by at most one and nothing is lost.
    #[test]
    fn t_b1_operations_are_dealt_out_evenly() {
        for callers in [1, 3, 64] {
            for operations in [0, 1, 2, 3, 63, 64, 65, 1000, 20_000] {
                let counts = distribution(operations, callers);
                assert_eq!(counts.len(), callers);
                assert_eq!(counts.iter().sum::<usize>(), operations);
                let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
                assert!(most - least <= 1, "{operations} over {callers}: {counts:?}");
            }
        }
    }

    #[test]
    fn t_b1_every_input_is_dealt_once_and_in_order() {
        let dealt = deal((0..10).collect(), 3);
        assert_eq!(dealt, [vec![0, 1, 2, 3], vec![4, 5, 6], vec![7, 8, 9]]);
    }

    /// T-B1: every caller makes exactly the operations it was dealt.
    #[tokio::test]
    async fn t_b1_callers_make_the_operations_they_were_dealt() {
        for callers in [1, 3, 64] {
            let made = Arc::new(Mutex::new(vec![Vec::new(); callers]));
            let inputs = deal((0..200).collect(), callers);
            let measured = closed(
                inputs.clone(),
                |caller| (caller, Arc::clone(&made)),
                |(caller, made), input: i32| async move {
                    made.lock().unwrap()[caller].push(input);
                    Ok(())
                },
            )
            .await
            .unwrap();
            assert_eq!(*made.lock().unwrap(), inputs);
            assert_eq!(measured.operations, 200);
            assert_eq!(measured.latencies.count(), 200);
        }
    }

    #[tokio::test]
    async fn a_failed_operation_fails_the_load() {
        let failed = closed(
            deal((0..10).collect(), 3),
            |_| (),
            |(), input: i32| async move {
                anyhow::ensure!(input != 7, "number {input}");
                Ok(())
            },
        );
        assert_eq!(failed.await.unwrap_err().to_string(), "number 7");
    }
}
