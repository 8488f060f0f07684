//! A few addresses of each class that tell whether two classes have a flow between them.

use crate::reach::space::Spot;

/// A pair of addresses of two classes between which a flow can be: of one family, and not of one
/// host. `from` and `to` are [`examples`] of the classes.
pub(crate) fn example<'s>(from: &'s [Spot], to: &'s [Spot]) -> Option<(&'s Spot, &'s Spot)> {
    let mut pairs = from.iter().flat_map(|a| to.iter().map(move |b| (a, b)));
    pairs.find(|(a, b)| {
        a.address.is_ipv4() == b.address.is_ipv4()
            && match (a.host, b.host) {
                (None, None) => a.address != b.address,
                (a, b) => a != b,
            }
    })
}

/// Of each class one address, or two of different holders where there are; for addresses that nobody
/// holds two addresses where there are. So two classes have a flow between them if their examples do.
pub(crate) fn examples(spots: &[Spot], classes: usize) -> Vec<Vec<Spot>> {
    let mut examples: Vec<Vec<Spot>> = vec![Vec::new(); classes];
    for spot in spots {
        let known = &mut examples[spot.class as usize];
        let is_new = match known.first() {
            None => true,
            Some(first) => {
                known.len() < 2
                    && (first.host != spot.host
                        || spot.host.is_none() && first.address != spot.address)
            }
        };
        if is_new {
            known.push(*spot);
        }
    }
    examples
}
