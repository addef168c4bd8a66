//! Graphs of schemas: an order in which everything comes after what it needs.

#[derive(Clone, Copy, PartialEq)]
enum Visit {
    New,
    Open,
    Done,
}

/// All of `count` nodes, each after those that it leads to; `edge` names the nth of those.
/// Recursion would be as deep as a schema likes, so this has none.
///
/// # Errors
/// A node from which a way leads back to itself.
pub(super) fn bottom_up(
    count: usize,
    edge: impl Fn(usize, usize) -> Option<usize>,
) -> Result<Vec<usize>, usize> {
    let mut order = Vec::with_capacity(count);
    let mut state = vec![Visit::New; count];
    for start in 0..count {
        let mut stack = vec![(start, 0)];
        while let Some((number, next)) = stack.pop() {
            if next == 0 && state[number] != Visit::New {
                continue;
            }
            state[number] = Visit::Open;
            let Some(target) = edge(number, next) else {
                state[number] = Visit::Done;
                order.push(number);
                continue;
            };
            if state[target] == Visit::Open {
                return Err(target);
            }
            stack.push((number, next + 1));
            stack.push((target, 0));
        }
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(edges: &[&[usize]]) -> Result<Vec<usize>, usize> {
        bottom_up(edges.len(), |node, nth| edges[node].get(nth).copied())
    }

    #[test]
    fn everything_comes_after_what_it_leads_to() {
        assert_eq!(order(&[&[1, 2], &[2], &[], &[0]]), Ok(vec![2, 1, 0, 3]));
        assert_eq!(order(&[]), Ok(Vec::new()));
    }

    #[test]
    fn a_way_back_is_named_by_where_it_comes_back_to() {
        assert_eq!(order(&[&[1], &[2], &[1]]), Err(1));
        assert_eq!(order(&[&[0]]), Err(0));
    }
}
