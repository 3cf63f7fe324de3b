// Checks inputs: inputs.js CASES; prints for each case whether its workflow accepts it.
import { readFileSync } from "node:fs";
import * as everything from "./everything.js";

interface Case {
  readonly workflow: "everything" | "lists";
  readonly inputs: unknown;
}

const cases = JSON.parse(readFileSync(process.argv[2] ?? "", "utf8")) as Case[];
console.log(
  JSON.stringify(cases.map((one) => everything[one.workflow].check(one.inputs).length === 0)),
);
