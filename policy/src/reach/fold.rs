//! From pairs of kinds to pairs of segments: what holds for all members, and what for some.

use crate::reach::{
    Extent,
    keys::{KeySets, Keys},
    terrain::{Group, Terrain},
};

/// `N` answers for each pair of kinds.
pub(super) trait Pairs<const N: usize> {
    fn terrain(&self) -> &Terrain<'_>;
    fn keys(&mut self) -> &mut KeySets;
    fn answer(&mut self, from: u32, to: u32) -> [Keys; N];
}

/// The answers for two segments.
pub(super) struct Folded<const N: usize> {
    pub src: String,
    pub dst: String,
    pub extents: [Extent; N],
}

/// What holds for all pairs so far, and what for any.
#[derive(Clone, Copy)]
struct Fold {
    all: Keys,
    any: Keys,
}

impl Fold {
    fn with(self, other: Self, keys: &mut KeySets) -> Self {
        Self {
            all: keys.meet(self.all, other.all),
            any: keys.join(self.any, other.any),
        }
    }
}

/// Both families' folds; none: there are no pairs.
type Folds<const N: usize> = [Option<[Fold; N]>; 2];

/// Folds each pair of groups that has flows. For each source group its kinds are folded once for
/// each destination kind, and then these for each destination group.
pub(super) fn fold<const N: usize, P: Pairs<N>>(
    pairs: &mut P,
    from: Vec<Group>,
    to: Vec<Group>,
) -> impl Iterator<Item = Folded<N>> {
    let mut destinations: Vec<u32> = to.iter().flat_map(|group| &group.kinds).copied().collect();
    destinations.sort_unstable();
    destinations.dedup();
    from.into_iter().flat_map(move |source| {
        let by_kind: Vec<Option<[Fold; N]>> = destinations
            .iter()
            .map(|kind| one(pairs, &source.kinds, *kind))
            .collect();
        let mut folded = Vec::new();
        for group in &to {
            let mut folds: Folds<N> = [None; 2];
            for kind in &group.kinds {
                let Ok(at) = destinations.binary_search(kind) else {
                    continue;
                };
                let family = usize::from(pairs.terrain().is_v4(*kind));
                folds[family] = add(folds[family], by_kind[at], pairs.keys());
            }
            if folds.iter().any(Option::is_some) {
                folded.push(Folded {
                    src: source.name.clone(),
                    dst: group.name.clone(),
                    extents: extents(folds, pairs.keys()),
                });
            }
        }
        folded
    })
}

/// Folds what some kinds have with one.
fn one<const N: usize, P: Pairs<N>>(pairs: &mut P, from: &[u32], to: u32) -> Option<[Fold; N]> {
    let v4 = pairs.terrain().is_v4(to);
    let mut folded = None;
    for kind in from {
        let terrain = pairs.terrain();
        if terrain.is_v4(*kind) != v4 || !terrain.is_judged(*kind, to) {
            continue;
        }
        let answer = pairs.answer(*kind, to);
        let answer = answer.map(|keys| Fold {
            all: keys,
            any: keys,
        });
        folded = add(folded, Some(answer), pairs.keys());
    }
    folded
}

fn add<const N: usize>(
    a: Option<[Fold; N]>,
    b: Option<[Fold; N]>,
    keys: &mut KeySets,
) -> Option<[Fold; N]> {
    match (a, b) {
        (Some(a), Some(b)) => Some(std::array::from_fn(|at| a[at].with(b[at], keys))),
        (only, None) | (None, only) => only,
    }
}

/// Both families together: a protocol of one family holds for all if it does for that family's pairs.
fn extents<const N: usize>(folds: Folds<N>, keys: &mut KeySets) -> [Extent; N] {
    std::array::from_fn(|at| {
        let (mut all, mut any) = (Keys::EVERY, Keys::NONE);
        for (v4, fold) in [false, true].into_iter().zip(folds) {
            let Some(fold) = fold.map(|fold| fold[at]) else {
                continue;
            };
            let foreign = keys.minus(Keys::EVERY, Keys::of_family(v4));
            let in_family = keys.join(fold.all, foreign);
            all = keys.meet(all, in_family);
            any = keys.join(any, fold.any);
        }
        all = keys.meet(all, any);
        let some = keys.minus(any, all);
        Extent {
            all: keys.spans(all).to_vec(),
            some: keys.spans(some).to_vec(),
        }
    })
}
