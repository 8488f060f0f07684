//! Compiles the protobuf files without an installed protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["policy", "agents", "operators"].map(|name| format!("bulkhead/v1/{name}.proto"));
    for file in &files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["."])?;
    tonic_prost_build::configure()
        // Many hosts share one encoded policy.
        .bytes(".bulkhead.v1.PolicyUpdate.policy")
        .compile_fds(descriptors)?;
    Ok(())
}
