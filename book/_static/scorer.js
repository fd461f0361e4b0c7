// What the search counts: chapters come before the pages of the library.
var Scorer = {
  score: ([page, , , , score]) => score - (/^book\/appendix\/api|^genindex|^py-modindex/.test(page) ? 100 : 0),
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
