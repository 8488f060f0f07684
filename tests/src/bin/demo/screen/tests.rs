use std::process::ExitCode;

use super::{Screen, cell, cells, tried};
use crate::{exit_code, interrupt::Interrupt};

fn screen_with(rows: &[[&str; 2]]) -> anyhow::Result<Screen> {
    let mut screen = Screen::new(Interrupt::default());
    for [expected, happened] in rows {
        screen.row(["web-1", "app-1", expected], || Ok((*happened).to_owned()))?;
    }
    Ok(screen)
}

#[test]
fn one_surprise_among_many_rows_gives_an_exit_code_that_is_not_zero() -> anyhow::Result<()> {
    let good = screen_with(&[["allowed", "allowed"], ["denied", "denied"]])?.tally();
    assert_eq!(good.to_string(), "All 2 as expected");
    assert_eq!(exit_code(Ok(good.is_good())), ExitCode::SUCCESS);

    let bad = screen_with(&[["denied", "denied"], ["denied", "allowed"], ["cut", "cut"]])?.tally();
    assert_eq!(bad.to_string(), "1 of 3 not as expected");
    assert_ne!(exit_code(Ok(bad.is_good())), ExitCode::SUCCESS);
    assert_ne!(
        exit_code(Err(anyhow::anyhow!("the lab broke"))),
        ExitCode::SUCCESS
    );
    Ok(())
}

#[test]
fn a_step_is_no_row_and_a_failure_is_neither() -> anyhow::Result<()> {
    let mut screen = screen_with(&[])?;
    screen.step("network", || Ok(((), "is there".to_owned())))?;
    let failed = screen.row(["web-1", "app-1", "allowed"], || anyhow::bail!("no ping"));
    assert!(failed.is_err());
    assert_eq!(screen.tally().to_string(), "All 0 as expected");
    Ok(())
}

#[test]
fn columns_stand_below_each_other_and_never_touch() {
    let start = |row: &str, word: &str| row.find(word).map(|at| row[..at].chars().count());
    let head = cells(["WHO", "TRIED", "EXPECTED"]);
    let longest = [
        cells([
            "client-1",
            &tried("client-1", "tcp/65535", "IPv6, open"),
            "allowed",
        ]),
        cells(["operator", "is told of every denied flow", "allowed"]),
    ];
    for row in longest {
        assert_eq!(start(&row, "allowed"), start(&head, "EXPECTED"), "{row}");
        assert_eq!(row.chars().count(), head.chars().count(), "{row}");
    }
    assert_eq!(cell("controller", 10), "controller ");
}
