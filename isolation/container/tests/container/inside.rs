//! What a container sees.

use crate::support::Bundle;

#[test]
fn a_container_runs_and_leaves_nothing() {
    let mut bundle = Bundle::new();
    assert_eq!(
        bundle.output_of("echo hi; hostname; pwd; echo $HOME $$"),
        "hi\natoll\n/\n/root 1\n"
    );
    bundle.assert_clean();
}
