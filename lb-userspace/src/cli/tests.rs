mod pages;
mod parsing;
mod sessions;
