pub(crate) mod execute;
#[cfg(test)]
pub(crate) mod testing;
