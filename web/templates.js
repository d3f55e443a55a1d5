// Titles, descriptions and order of our workflows in the template browser.
//
// Of a pack the browser shows the names of files, in the order of the disk, but of core's own templates what
// an index says. Ours join that index, with the texts of locales/*/main.json. Where a front end has no index,
// or one of another shape, they are listed as those of any pack.
import { app } from "../../scripts/app.js";

const PACK = decodeURIComponent(new URL(import.meta.url).pathname.split("/").at(-2));
const { api } = app;
const { getWorkflowTemplates, getCoreWorkflowTemplates } = api;

async function describe(locale) {
    const [texts, found] = await Promise.all([
        api.getCustomNodesI18n(),
        getWorkflowTemplates.call(api),
    ]);
    const of = (language) => texts[language]?.templateWorkflows;
    const { template, templateDescription } = of(locale)?.template?.CombCN ? of(locale) : of("en");
    return Object.entries(template.CombCN)
        .filter(([name]) => found[PACK].includes(name))
        .map(([name, title]) => ({
            name,
            title,
            description: templateDescription.CombCN[name],
            mediaType: "image",
            mediaSubtype: "jpg",
        }));
}

if (getWorkflowTemplates && getCoreWorkflowTemplates) {
    let isDescribed = false;

    api.getCoreWorkflowTemplates = async function (locale) {
        const groups = await getCoreWorkflowTemplates.call(this, locale);
        if (!isDescribed) return groups;
        // Where a language has no index, it comes from here in English, with ours in it.
        const others = groups.filter(({ moduleName }) => moduleName !== PACK);
        return [...others, { moduleName: PACK, title: PACK, templates: await describe(locale) }];
    };

    api.getWorkflowTemplates = async function () {
        const found = await getWorkflowTemplates.call(this);
        try {
            isDescribed = (await describe("en")).length === found[PACK].length;
        } catch (error) {
            console.warn("CombCN's templates are listed by name:", error);
        }
        if (!isDescribed) return found;
        const { [PACK]: ours, ...others } = found;
        return others;
    };
}
