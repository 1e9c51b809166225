"""Stock submissions, by which `harness gradecheck` tests an assignment: honest ones, mutants and cheats."""
